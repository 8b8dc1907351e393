//! Several sources of examples mixed into one endless stream (Raffel et al. 2020, section 3.5.2; seqio's
//! `sample_from_datasets`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::text::{TextPosition, TextStream};
use super::{Example, Lengths};
use crate::rng::{Purpose, Rng, permutation};
use crate::{Error, Result};

/// How often the members of a mixture are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Mixing {
    /// What a member's rate follows from.
    #[serde(default)]
    pub rates: Rates,
    /// Examples beyond which a member counts as no larger (the paper's K, 2^16 to 2^21).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Rates are taken to the power of 1 / temperature: the higher, the more alike they are. The paper pairs a temperature
    /// above 1 with a limit of 2^21.
    #[serde(default = "one")]
    pub temperature: f64,
}

/// What the rates of a mixture follow from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rates {
    /// The members' numbers of examples.
    #[default]
    Proportional,
    /// Every member as often.
    Equal,
}

/// A member of a mixture: where its examples come from.
pub enum Member {
    Text(Box<TextStream>),
    /// Examples in memory, in a new random order in every epoch.
    Examples(Shuffled),
}

/// Examples in memory as an endless stream: example k is a function of (seed, k).
pub struct Shuffled {
    examples: Arc<Vec<Example>>,
    seed: u64,
    drawn: u64,
    /// A cache only.
    order: Option<(u64, Vec<u32>)>,
}

/// One member with what its rate follows from.
pub struct Weighted {
    pub name: String,
    pub member: Member,
    /// Examples that it counts as.
    pub size: f64,
    /// Multiplies `size`.
    pub scale: f64,
}

/// Examples of several members, each draw independent of the others.
pub struct Mixture {
    members: Vec<Weighted>,
    /// Share of the draws of each member.
    rates: Vec<f64>,
    seed: u64,
    drawn: u64,
}

/// Where a [`Mixture`] stands: all that it takes to go on as if nothing had happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MixturePosition {
    pub drawn: u64,
    /// In the members' order.
    pub members: Vec<MemberPosition>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberPosition {
    Text(TextPosition),
    /// Examples drawn so far.
    Examples(u64),
}

fn one() -> f64 {
    1.0
}

impl Default for Mixing {
    fn default() -> Mixing {
        Mixing { rates: Rates::default(), limit: None, temperature: 1.0 }
    }
}

impl Mixing {
    /// The share of each member, from (examples, scale): `min(scale * examples, limit)^(1 / temperature)`, divided by
    /// their sum. Scale comes before the limit and the limit before the temperature, as in seqio.
    ///
    /// # Errors
    /// `Input`: a setting or a size out of range, or no member with a rate above 0.
    pub fn shares(&self, members: &[(f64, f64)]) -> Result<Vec<f64>> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(Error::Input(format!("a temperature of {} is not a positive number", self.temperature)));
        }
        if self.limit == Some(0) {
            return Err(Error::Input("a limit of 0 examples leaves nothing to mix".into()));
        }
        let limit = self.limit.map_or(f64::INFINITY, |limit| limit as f64);
        let mut rates = Vec::with_capacity(members.len());
        for &(size, scale) in members {
            if !(size >= 0.0 && size.is_finite() && scale >= 0.0 && scale.is_finite()) {
                return Err(Error::Input(format!("a member of {size} examples times {scale} cannot be mixed")));
            }
            rates.push(match self.rates {
                Rates::Proportional => (scale * size).min(limit),
                Rates::Equal => f64::from(u8::from(scale > 0.0)),
            });
        }
        let largest = rates.iter().copied().fold(0.0, f64::max);
        if largest <= 0.0 {
            return Err(Error::Input("nothing to train on: every task has a rate of 0".into()));
        }
        if self.temperature != 1.0 {
            // Of the largest: no power of a share overflows.
            rates.iter_mut().for_each(|rate| *rate = (*rate / largest).powf(self.temperature.recip()));
        }
        let sum: f64 = rates.iter().sum();
        Ok(rates.into_iter().map(|rate| rate / sum).collect())
    }
}

impl Shuffled {
    /// `drawn` examples are taken as drawn already.
    ///
    /// # Errors
    /// `Input` if there are no examples or more than 2^32.
    pub fn new(examples: Arc<Vec<Example>>, seed: u64, drawn: u64) -> Result<Shuffled> {
        if examples.is_empty() || u32::try_from(examples.len()).is_err() {
            return Err(Error::Input(format!("{} examples: there must be between 1 and 2^32", examples.len())));
        }
        Ok(Shuffled { examples, seed, drawn, order: None })
    }

    fn next(&mut self) -> Example {
        let n = self.examples.len() as u64;
        let (epoch, index) = (self.drawn / n, self.drawn % n);
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.order = Some((epoch, permutation(self.seed, Purpose::Examples, epoch, n as u32)));
        }
        self.drawn += 1;
        let index = self.order.as_ref().map_or(0, |(_, order)| order[index as usize]);
        self.examples[index as usize].clone()
    }

    fn lengths(&self) -> (usize, usize) {
        self.examples.iter().fold((1, 1), |(source, target), example| {
            (source.max(example.source.len()), target.max(example.target.len()))
        })
    }
}

impl Member {
    fn next(&mut self) -> Result<Example> {
        match self {
            Member::Text(text) => text.next(),
            Member::Examples(examples) => Ok(examples.next()),
        }
    }

    fn position(&self) -> MemberPosition {
        match self {
            Member::Text(text) => MemberPosition::Text(text.position()),
            Member::Examples(examples) => MemberPosition::Examples(examples.drawn),
        }
    }

    fn passes(&self) -> f64 {
        match self {
            Member::Text(text) => text.passes(),
            Member::Examples(examples) => examples.drawn as f64 / examples.examples.len() as f64,
        }
    }

    fn longest(&self) -> (usize, usize) {
        match self {
            Member::Text(text) => {
                let Lengths { source, target, .. } = text.lengths();
                (source, target)
            }
            Member::Examples(examples) => examples.lengths(),
        }
    }
}

impl Mixture {
    /// The members stand where `drawn` draws have left them.
    ///
    /// # Errors
    /// As [`Mixing::shares`].
    pub fn new(members: Vec<Weighted>, mixing: &Mixing, seed: u64, drawn: u64) -> Result<Mixture> {
        let sizes: Vec<_> = members.iter().map(|member| (member.size, member.scale)).collect();
        let rates = mixing.shares(&sizes)?;
        Ok(Mixture { members, rates, seed, drawn })
    }

    /// The next example and the number of the member that it is from.
    pub fn draw(&mut self) -> Result<(usize, Example)> {
        let index = self.choose();
        self.drawn += 1;
        Ok((index, self.members[index].member.next()?))
    }

    /// Where the next example comes from.
    pub fn position(&self) -> MixturePosition {
        let members = self.members.iter().map(|weighted| weighted.member.position()).collect();
        MixturePosition { drawn: self.drawn, members }
    }

    /// (name, share of the draws, passes over its examples so far) of every member.
    pub fn members(&self) -> impl Iterator<Item = (&str, f64, f64)> {
        let members = self.members.iter().zip(&self.rates);
        members.map(|(weighted, rate)| (weighted.name.as_str(), *rate, weighted.member.passes()))
    }

    /// Passes over the member that is the furthest.
    pub fn passes(&self) -> f64 {
        self.members.iter().map(|weighted| weighted.member.passes()).fold(0.0, f64::max)
    }

    /// The most (source, target) tokens of an example, EOS included.
    pub fn longest(&self) -> (usize, usize) {
        let each = self.members.iter().map(|weighted| weighted.member.longest());
        each.fold((1, 1), |(source, target), (s, t)| (source.max(s), target.max(t)))
    }

    fn choose(&self) -> usize {
        if self.members.len() == 1 {
            return 0;
        }
        let mut point = Rng::new(self.seed, Purpose::Mixture, &[self.drawn]).uniform();
        for (index, rate) in self.rates.iter().enumerate() {
            if point < *rate {
                return index;
            }
            point -= rate;
        }
        // Rounding may leave a little beyond the last: it goes to the last that is drawn at all.
        self.rates.iter().rposition(|&rate| rate > 0.0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(mixing: &Mixing, sizes: &[f64]) -> Vec<f64> {
        mixing.shares(&sizes.iter().map(|&size| (size, 1.0)).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn scale_then_limit_then_temperature() {
        let mixing = Mixing { limit: Some(100), temperature: 2.0, ..Mixing::default() };
        // 2 x 200 is cut to 100, the root is 10; 25 gives 5.
        assert_eq!(mixing.shares(&[(200.0, 2.0), (25.0, 1.0)]).unwrap(), [10.0 / 15.0, 5.0 / 15.0]);
        // 0.1 x 200 stays below the limit: the scale comes first.
        let plain = Mixing { limit: Some(100), ..Mixing::default() };
        assert_eq!(plain.shares(&[(200.0, 0.1), (20.0, 1.0)]).unwrap(), [0.5, 0.5]);
        assert_eq!(shares(&Mixing { rates: Rates::Equal, ..Mixing::default() }, &[1.0, 9.0]), [0.5, 0.5]);
        assert_eq!(shares(&Mixing::default(), &[1.0, 3.0]), [0.25, 0.75]);
    }

    #[test]
    fn impossible_mixtures_are_errors() {
        assert_eq!(shares(&Mixing { temperature: 1e-3, ..Mixing::default() }, &[9e4, 1e5]), [0.9f64.powf(1000.0), 1.0]);
        assert!(Mixing { temperature: 0.0, ..Mixing::default() }.shares(&[(1.0, 1.0)]).is_err());
        assert!(Mixing { limit: Some(0), ..Mixing::default() }.shares(&[(1.0, 1.0)]).is_err());
        assert!(Mixing::default().shares(&[(1.0, 0.0)]).is_err());
        assert!(Mixing::default().shares(&[(f64::NAN, 1.0)]).is_err());
    }

    fn member(name: &str, size: usize, position: u64) -> Weighted {
        let examples = (0..size as u32).map(|i| Example { source: vec![i, 1], target: vec![1] }).collect();
        let member = Member::Examples(Shuffled::new(Arc::new(examples), 3, position).unwrap());
        Weighted { name: name.into(), member, size: size as f64, scale: 1.0 }
    }

    fn mixture(position: &MixturePosition) -> Mixture {
        let at = |index: usize| match position.members.get(index) {
            Some(MemberPosition::Examples(drawn)) => *drawn,
            _ => 0,
        };
        let members = vec![member("a", 30, at(0)), member("b", 10, at(1))];
        Mixture::new(members, &Mixing::default(), 7, position.drawn).unwrap()
    }

    #[test]
    fn a_mixture_goes_on_where_it_was() {
        let mut whole = mixture(&MixturePosition::default());
        let all: Vec<_> = (0..200).map(|_| whole.draw().unwrap()).collect();
        for cut in [0, 1, 39, 40, 41, 199] {
            let mut first = mixture(&MixturePosition::default());
            (0..cut).for_each(|_| drop(first.draw().unwrap()));
            let mut rest = mixture(&first.position());
            for expected in &all[cut..] {
                assert_eq!(&rest.draw().unwrap(), expected);
            }
        }
    }

    #[test]
    fn members_are_drawn_at_their_rates_and_each_example_once_an_epoch() {
        let mut stream = mixture(&MixturePosition::default());
        let mut counts = [0usize; 2];
        let mut seen = [vec![0usize; 30], vec![0usize; 10]];
        for _ in 0..4000 {
            let (index, example) = stream.draw().unwrap();
            counts[index] += 1;
            seen[index][example.source[0] as usize] += 1;
        }
        // 3,000 expected, deviation sqrt(4000 * .75 * .25) = 27.
        assert!((2890..3110).contains(&counts[0]), "{counts:?}");
        for (times, count) in seen.iter().zip(counts) {
            let epochs = count / times.len();
            assert!(times.iter().all(|&n| n == epochs || n == epochs + 1), "{times:?}");
        }
    }
}
