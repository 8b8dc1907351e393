//! Several sources of examples mixed into one endless stream (Raffel et al. 2020, section 3.5.2; seqio's
//! `sample_from_datasets`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::Lengths;
use super::text::{TextPosition, TextStream};
use crate::batch::Example;
use crate::rng::{Purpose, Rng};
use crate::{Error, Result};

/// How often the members of a mixture are drawn.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Mixing {
    /// What a member's rate follows from.
    #[serde(default)]
    pub rates: Rates,
    /// Examples beyond which a member counts as no larger (the paper's K, 2^16 to 2^21).
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
    /// Examples in memory, in a new random order in every pass.
    Examples(Shuffled),
}

/// Examples in memory as an endless stream: every example once a pass, pass after pass. Example k of the stream is a
/// function of (seed, k).
pub struct Shuffled {
    examples: Arc<Vec<Example>>,
    seed: u64,
    drawn: u64,
    /// So many draws in a row give no example twice: see [`Mixture::keep_apart`].
    apart: usize,
    /// The order of the pass at hand and its number. Follows from the rest.
    order: Option<(u64, Vec<u32>)>,
}

/// One draw from a mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// The number of the member that it is from.
    pub member: usize,
    pub example: Example,
    /// The member's pass that the example belongs to; always 0 for text, which makes new examples in each pass.
    pub pass: u64,
    /// Passes over the member's examples with this one.
    pub passes: f64,
}

/// Examples that a run may have drawn: more than any run trains on, few enough to find its place again.
const MOST_DRAWN: u64 = 1 << 36;

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
    /// `Input` if there are no examples or more than 2^32, or if more were drawn than any run does.
    pub fn new(examples: Arc<Vec<Example>>, seed: u64, drawn: u64) -> Result<Shuffled> {
        if examples.is_empty() || u32::try_from(examples.len()).is_err() {
            return Err(Error::Input(format!("{} examples: there must be between 1 and 2^32", examples.len())));
        }
        if drawn > MOST_DRAWN {
            return Err(Error::Input(format!(
                "{drawn} examples drawn already: more than {MOST_DRAWN} is no run's place"
            )));
        }
        Ok(Shuffled { examples, seed, drawn, apart: 1, order: None })
    }

    fn next(&mut self) -> (Example, u64) {
        let n = self.examples.len() as u64;
        let (pass, index) = (self.drawn / n, self.drawn % n);
        let rng = |pass| Rng::new(self.seed, Purpose::Examples, &[pass]);
        let apart = self.apart.clamp(1, n as usize);
        let first = || (0, reshuffled(&(0..n as u32).collect::<Vec<_>>(), rng(0), 1));
        let (at, order) = self.order.get_or_insert_with(first);
        while *at < pass {
            *at += 1;
            *order = reshuffled(order, rng(*at), apart);
        }
        self.drawn += 1;
        (self.examples[order[index as usize] as usize].clone(), pass)
    }

    fn passes(&self) -> f64 {
        self.drawn as f64 / self.examples.len() as f64
    }

    fn lengths(&self) -> (usize, usize) {
        self.examples.iter().fold((1, 1), |(source, target), example| {
            (source.max(example.source.len()), target.max(example.target.len()))
        })
    }

    /// The most examples that so many source and target tokens have room for.
    fn most_in(&self, source: usize, target: usize) -> usize {
        let most = |mut lengths: Vec<usize>, mut room: usize| {
            lengths.sort_unstable();
            let fits = |length: &&usize| room.checked_sub(**length).map(|left| room = left).is_some();
            lengths.iter().take_while(fits).count()
        };
        let lengths = |of: fn(&Example) -> usize| self.examples.iter().map(of).collect();
        most(lengths(|e| e.source.len()), source).min(most(lengths(|e| e.target.len()), target))
    }
}

/// Another random order. Between two draws of an item, the last one in `order` and the next one here, lie `apart` others.
/// `apart` is at least 1, and at most their number, which leaves the order as it is.
fn reshuffled(order: &[u32], mut rng: Rng, apart: usize) -> Vec<u32> {
    let (now, later) = order.split_at(order.len() + 1 - apart);
    let (mut waiting, mut later) = (now.to_vec(), later.iter());
    let mut next = Vec::with_capacity(order.len());
    while !waiting.is_empty() {
        next.push(waiting.swap_remove(rng.below(waiting.len() as u64) as usize));
        waiting.extend(later.next());
    }
    next
}

impl Member {
    /// An example and the number of its pass.
    fn next(&mut self) -> Result<(Example, u64)> {
        match self {
            Member::Text(text) => Ok((text.next()?, 0)),
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
            Member::Examples(examples) => examples.passes(),
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

    /// Lets no example of a member come twice in so many draws in a row, as far as it has as many; to be said before the
    /// first draw. Of packed rows (source and target tokens), in as many as they could hold.
    pub fn keep_apart(&mut self, rows: usize, packed: Option<(usize, usize)>) {
        for Weighted { member, .. } in &mut self.members {
            if let Member::Examples(examples) = member {
                let most =
                    |(source, target)| examples.most_in(rows.saturating_mul(source), rows.saturating_mul(target));
                examples.apart = packed.map_or(rows, most);
            }
        }
    }

    /// The next example.
    pub fn draw(&mut self) -> Result<Draw> {
        let index = self.choose();
        self.drawn += 1;
        let member = &mut self.members[index].member;
        let (example, pass) = member.next()?;
        Ok(Draw { member: index, example, pass, passes: member.passes() })
    }

    /// Where the next example comes from.
    pub fn position(&self) -> MixturePosition {
        let members = self.members.iter().map(|weighted| weighted.member.position()).collect();
        MixturePosition { drawn: self.drawn, members }
    }

    /// (name, share of the draws) of every member.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (&str, f64)> {
        self.members.iter().zip(&self.rates).map(|(weighted, rate)| (weighted.name.as_str(), *rate))
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
        // The rates' sum is 1.
        Rng::new(self.seed, Purpose::Mixture, &[self.drawn]).weighted(self.rates.iter().copied(), 1.0)
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
    fn what_comes_again_waits_for_as_many_as_a_batch_holds() {
        for (size, rows) in [(1, 5), (4, 4), (5, 4), (7, 4), (200, 32)] {
            let Weighted { member: Member::Examples(mut stream), .. } = member("", size, 0) else { unreachable!() };
            stream.apart = rows;
            let drawn: Vec<u32> = (0..20 * size).map(|_| stream.next().0.source[0]).collect();
            for pass in drawn.chunks(size) {
                assert_eq!(pass.iter().collect::<std::collections::HashSet<_>>().len(), size);
            }
            for batch in drawn.windows(rows.min(size)) {
                assert_eq!(batch.iter().collect::<std::collections::HashSet<_>>().len(), batch.len(), "{drawn:?}");
            }
            assert!(size <= rows || drawn[..size] != drawn[size..2 * size], "orders differ");
            // From any place on.
            let at = 7 * size as u64 + 1;
            let Weighted { member: Member::Examples(mut rest), .. } = member("", size, at) else { unreachable!() };
            rest.apart = rows;
            assert!(drawn[at as usize..].iter().all(|&expected| rest.next().0.source[0] == expected));
        }
        assert!(Shuffled::new(Arc::new(vec![Example { source: vec![1], target: vec![1] }]), 0, u64::MAX).is_err());
    }

    #[test]
    fn members_are_drawn_at_their_rates_and_each_example_once_an_epoch() {
        let mut stream = mixture(&MixturePosition::default());
        let mut counts = [0usize; 2];
        let mut seen = [vec![0usize; 30], vec![0usize; 10]];
        for _ in 0..4000 {
            let Draw { member, example, .. } = stream.draw().unwrap();
            counts[member] += 1;
            seen[member][example.source[0] as usize] += 1;
        }
        // 3,000 expected, deviation sqrt(4000 * .75 * .25) = 27.
        assert!((2890..3110).contains(&counts[0]), "{counts:?}");
        for (times, count) in seen.iter().zip(counts) {
            let epochs = count / times.len();
            assert!(times.iter().all(|&n| n == epochs || n == epochs + 1), "{times:?}");
        }
    }
}
