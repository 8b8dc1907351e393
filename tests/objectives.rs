//! Objectives over many lengths: what they take from a text is in the example, and T5's own vectors come out.

use t5_wgpu::batch::Example;
use t5_wgpu::data::objective::{Bert, Denoiser, Iid, PrefixLm, Ul2};
use t5_wgpu::data::{Lengths, Markers, Objective, SpanCorruption};
use t5_wgpu::rng::{Purpose, Rng};
use t5_wgpu::tokenizer::Tokenizer;

const EOS: u32 = 1;

/// Sentinels from `first` on downwards, as in SentencePiece vocabularies, or upwards, as in those of bytes.
fn markers(first: u32, down: bool) -> Markers {
    let sentinels = (0..400).map(|k| if down { first - k } else { first + k }).collect();
    Markers { vocab_size: 40_000, ..Markers::new(sentinels, EOS) }
}

fn both_markers() -> [Markers; 2] {
    [markers(30_000, true), markers(20_000, false)]
}

fn text(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| 1000 + i).collect()
}

fn rng(tag: usize) -> Rng {
    Rng::new(9, Purpose::Corruption, &[tag as u64])
}

fn spans(noise_density: f64, mean_span: f64, random_roll: bool) -> Objective {
    Objective::SpanCorruption(SpanCorruption { noise_density, mean_span, random_roll })
}

fn iid(noise_density: f64) -> Iid {
    Iid { noise_density }
}

fn bare(example: &Example) -> (&[u32], &[u32]) {
    let (source_end, source) = example.source.split_last().unwrap();
    let (target_end, target) = example.target.split_last().unwrap();
    assert_eq!((*source_end, *target_end), (EOS, EOS));
    (source, target)
}

/// The runs between sentinels, which must count from 0; the first is empty where the tokens begin with a sentinel.
fn runs<'a>(tokens: &'a [u32], markers: &Markers) -> Vec<&'a [u32]> {
    let is_sentinel = |id: &u32| markers.sentinels.contains(id);
    let used: Vec<u32> = tokens.iter().copied().filter(is_sentinel).collect();
    assert_eq!(used, markers.sentinels[..used.len()]);
    tokens.split(is_sentinel).collect()
}

/// The text, from runs that alternate between source and target: a side that begins with a sentinel has its first run
/// after the other's.
fn reassemble(example: &Example, markers: &Markers) -> Vec<u32> {
    let (source, target) = bare(example);
    let mut sides = [runs(source, markers), runs(target, markers)];
    let source_first = !sides[0][0].is_empty();
    assert_ne!(source_first, !sides[1][0].is_empty(), "one side begins with a sentinel: {example:?}");
    sides[usize::from(source_first)].remove(0);
    let (first, second) = if source_first { (&sides[0], &sides[1]) } else { (&sides[1], &sides[0]) };
    (0..first.len()).flat_map(|i| first[i].iter().chain(second.get(i).copied().unwrap_or_default())).copied().collect()
}

#[test]
fn masked_spans_reassemble_at_every_length() {
    for markers in both_markers() {
        for density in [0.05, 0.15, 0.5, 0.85] {
            let all = [
                spans(density, 1.0, false),
                spans(density, 3.0, false),
                spans(density, 3.0, true),
                spans(density, 64.0, true),
                Objective::IidReplaceSpans(iid(density)),
            ];
            for (objective, len) in all.iter().flat_map(|objective| (2..200).map(move |len| (objective, len))) {
                for seed in 0..3 {
                    let example = objective.apply(&text(len), &markers, &mut rng(len * 3 + seed)).unwrap();
                    assert_eq!(reassemble(&example, &markers), text(len), "{objective:?} {len}");
                }
            }
        }
    }
}

#[test]
fn dropped_tokens_are_the_target() {
    for (density, len) in [0.05, 0.15, 0.7].into_iter().flat_map(|density| (2..200).map(move |len| (density, len))) {
        let example = Objective::DropTokens(iid(density)).apply(&text(len), &markers(9, false), &mut rng(len)).unwrap();
        let (source, target) = bare(&example);
        assert!(source.is_sorted() && target.is_sorted());
        let mut all = [source, target].concat();
        all.sort_unstable();
        assert_eq!(all, text(len));
    }
}

#[test]
fn whole_targets_and_masked_sources() {
    for markers in both_markers() {
        let bert = Objective::Bert(Bert { noise_density: 0.3, random_share: 0.25 });
        let mut counts = [0usize; 3];
        for len in 2..200 {
            let (masked, half) = (Objective::Mass(iid(0.3)), &bert);
            for objective in [&masked, half] {
                let example = objective.apply(&text(len), &markers, &mut rng(len)).unwrap();
                let (source, target) = bare(&example);
                assert_eq!((target, source.len()), (text(len).as_slice(), len));
                for (&id, &clean) in source.iter().zip(target) {
                    if objective == &masked {
                        assert!(id == clean || id == markers.sentinels[0]);
                    } else {
                        assert!((3..40_000).contains(&id));
                        counts[if id == clean { 0 } else { 1 + usize::from(id != markers.sentinels[0]) }] += 1;
                    }
                }
            }
        }
        // 19,899 tokens: 70 % clean, three quarters of the rest masked, a quarter random.
        let share = |count: usize| count as f64 / counts.iter().sum::<usize>() as f64;
        for (count, expected) in counts.into_iter().zip([0.7, 0.225, 0.075]) {
            assert!((share(count) - expected).abs() < 0.013, "{counts:?}");
        }
    }
}

#[test]
fn halves_and_orders() {
    let markers = markers(30_000, true);
    let mut prefixes = vec![0; 10];
    for len in 2..200 {
        for seed in 0..5 {
            let apply =
                |objective: &Objective| objective.apply(&text(len), &markers, &mut rng(len * 5 + seed)).unwrap();
            let prefix_lm = apply(&Objective::PrefixLm(PrefixLm::default()));
            let (source, target) = bare(&prefix_lm);
            assert!(!source.is_empty() && !target.is_empty());
            assert_eq!([source, target].concat(), text(len));
            prefixes[10 * (source.len() - 1) / (len - 1)] += 1;
            let quarter = apply(&Objective::PrefixLm(PrefixLm { target_share: Some(0.25) }));
            let (source, target) = bare(&quarter);
            assert_eq!([source, target].concat(), text(len));
            assert_eq!(target.len(), ((len as f64 * 0.25).round_ties_even() as usize).max(1));
            let lm = apply(&Objective::Lm);
            assert_eq!(bare(&lm), ([].as_slice(), text(len).as_slice()));
            let shuffled = apply(&Objective::Deshuffle);
            let (source, target) = bare(&shuffled);
            assert!(target == text(len) && (len < 30 || source != target));
            let mut sorted = source.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, text(len));
        }
    }
    assert!(prefixes.iter().all(|&n| (60..160).contains(&n)), "{prefixes:?}");
}

#[test]
fn lengths_are_those_of_the_paper() {
    let of = |objective: Objective, inputs_len| {
        let Lengths { raw, source, target } = objective.lengths(inputs_len, None).unwrap();
        (raw, source, target)
    };
    assert_eq!(of(Objective::default(), 512), (568, 512, 114));
    assert_eq!(of(spans(0.2, 2.0, false), 64), (70, 64, 22));
    assert_eq!(of(spans(0.2, 1.0, false), 64), (63, 64, 27));
    assert_eq!(of(spans(0.5, 3.0, false), 512), (766, 512, 512));
    for (density, target) in [(0.1, 103), (0.15, 192), (0.25, 256), (0.5, 512)] {
        assert_eq!(of(Objective::IidReplaceSpans(iid(density)), 512), (511, 512, target));
    }
    assert_eq!(of(Objective::DropTokens(Iid::default()), 512), (511, 512, 104));
    for objective in [Objective::Bert(Bert::default()), Objective::Mass(Iid::default()), Objective::Deshuffle] {
        assert_eq!(of(objective, 512), (511, 512, 512));
    }
    assert_eq!(of(Objective::PrefixLm(PrefixLm::default()), 512), (511, 511, 511));
    assert_eq!(of(Objective::Lm, 512), (511, 1, 512));
}

#[test]
fn no_example_is_longer_than_its_lengths_say() {
    let all = Objective::ALL.map(|info| info.name.parse::<Objective>().unwrap());
    let rolled = spans(0.15, 3.0, true);
    for objective in all.iter().chain([&rolled]) {
        let markers = Markers { prefixes: vec![vec![5, 6, 7]; 7], ..markers(30_000, true) };
        for inputs_len in (8..90).step_by(3) {
            for targets_len in [None, Some(64), Some(200)] {
                let Ok(each) = objective.lengths_by_draw(inputs_len, targets_len, &markers) else {
                    // Fixed lengths of targets that are more than 64.
                    assert!(targets_len == Some(64) || inputs_len < 10, "{objective:?} {inputs_len}");
                    continue;
                };
                assert!(each.iter().all(|lengths| lengths.raw >= 2));
                for seed in 0..20 {
                    let lengths = each[objective.draw(&mut rng(seed))];
                    for raw in [lengths.raw, lengths.raw / 2 + 1] {
                        let mut example = objective.apply(&text(raw), &markers, &mut rng(seed)).unwrap();
                        let cut = targets_len.is_some();
                        let fits = example.source.len() <= lengths.source && example.target.len() <= lengths.target;
                        assert!(fits || cut, "{objective:?} {inputs_len} {lengths:?} {:?}", example.lengths());
                        lengths.trim(&mut example, EOS);
                        assert!(example.source.len() <= lengths.source && lengths.source <= inputs_len);
                        assert!(example.target.len() <= lengths.target);
                        assert_eq!([example.source.last(), example.target.last()], [Some(&EOS); 2]);
                    }
                }
            }
        }
    }
}

#[test]
fn few_sentinels_leave_the_rest_clean() {
    let few = Markers::new((0..4).map(|k| 30_000 - k).collect(), EOS);
    for seed in 0..50 {
        let example = Objective::IidReplaceSpans(iid(0.5)).apply(&text(100), &few, &mut rng(seed)).unwrap();
        assert_eq!(reassemble(&example, &few), text(100));
    }
    let none = Markers::new(Vec::new(), EOS);
    for name in ["iid_replace_spans", "bert", "mass", "span_corruption"] {
        let error = name.parse::<Objective>().unwrap().apply(&text(50), &none, &mut rng(0)).unwrap_err().to_string();
        assert!(error.contains("sentinel"), "{error}");
    }
}

#[test]
fn ul2_draws_at_its_rates_and_says_which() {
    let tokenizer = Tokenizer::bytes();
    let ul2: Objective = "ul2".parse().unwrap();
    let markers = ul2.markers(&tokenizer).unwrap();
    let Objective::Ul2(Ul2 { denoisers }) = &ul2 else { unreachable!() };
    let mut counts = [0u32; 7];
    for seed in 0..4000 {
        let drawn = ul2.draw(&mut rng(seed));
        counts[drawn] += 1;
        if seed < 200 {
            let example = ul2.apply(&text(100), &markers, &mut rng(seed)).unwrap();
            let prefix = tokenizer.encode(&denoisers[drawn].prefix).unwrap();
            assert_eq!(example.source[..3], prefix);
        }
    }
    for (Denoiser { rate, .. }, count) in denoisers.iter().zip(counts) {
        assert!((f64::from(count) / 4000.0 - rate).abs() < 0.025, "{counts:?}");
    }
    // 128 spans of 3 in 766 tokens need more than the 125 sentinels of bytes: segments are shorter.
    let each = ul2.lengths_by_draw(512, None, &markers).unwrap();
    assert!(each[3].raw < 766 && each[3].raw > 700, "{:?}", each[3]);
    assert_eq!(each[4].raw, ul2.lengths_by_draw(512, None, &Markers::new(vec![7; 400], EOS)).unwrap()[4].raw);
}

#[test]
fn recipes_say_names_or_tables() {
    let parse = |text: &str| text.parse::<Objective>();
    assert_eq!(parse("span_corruption").unwrap(), Objective::default());
    assert_eq!(parse("{ name = \"span_corruption\", mean_span = 5 }").unwrap(), spans(0.15, 5.0, false));
    assert_eq!(parse("{\"name\": \"mass\", \"noise_density\": 0.5}").unwrap(), Objective::Mass(iid(0.5)));
    let denoisers = "{ name = \"ul2\", denoisers = [{ objective = \"lm\", rate = 1 }, \
                     { objective = { name = \"bert\", random_share = 0.5 }, rate = 0.5, prefix = \"[B]\" }] }";
    let Objective::Ul2(ul2) = parse(denoisers).unwrap() else { panic!("not ul2") };
    assert_eq!((ul2.denoisers.len(), ul2.denoisers[1].prefix.as_str()), (2, "[B]"));
    for info in Objective::ALL {
        let objective = parse(info.name).unwrap();
        assert_eq!(objective.name(), info.name);
        let json = serde_json::to_string(&objective).unwrap();
        assert!(json.starts_with(&format!("{{\"name\":\"{}\"", info.name)), "{json}");
        assert_eq!(serde_json::from_str::<Objective>(&json).unwrap(), objective);
        let written = toml::to_string(&objective).unwrap();
        assert_eq!(toml::from_str::<Objective>(&written).unwrap(), objective, "{written}");
    }
    for (text, expected) in [
        ("spans", "there is no objective \"spans\"; there are span_corruption, iid_replace_spans"),
        ("{ name = \"bert\", density = 0.5 }", "unknown field `density`, expected `noise_density` or `random_share`"),
        ("{ name = \"lm\", density = 0.5 }", "objective lm: unknown field `density`"),
        ("{ noise_density = 0.5 }", "needs a name"),
        ("{ name = \"mass\", noise_density = 1.5 }", "1.5 is not between 0 and 1"),
        ("{ name = \"mass\", noise_density = \"much\" }", "objective mass: invalid type: string"),
        ("{ name = \"ul2\", denoisers = [{ objective = \"ul2\", rate = 1 }] }", "cannot be ul2 itself"),
        ("{ name = \"ul2\", denoisers = [] }", "one above 0"),
        ("{ name = ", "is not a table"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn impossible_lengths_are_errors() {
    for info in Objective::ALL {
        let objective: Objective = info.name.parse().unwrap();
        assert!(objective.lengths(2, None).is_err(), "{}", info.name);
        assert!(objective.lengths(512, Some(1)).is_err(), "{}", info.name);
        assert!(objective.apply(&[5], &markers(30_000, true), &mut rng(0)).is_err(), "{}", info.name);
    }
    let error = Objective::default().lengths(512, Some(100)).unwrap_err().to_string();
    assert!(error.contains("sources of 512 come with targets of 114"), "{error}");
    assert!(Objective::default().lengths(512, Some(114)).is_ok());
}
