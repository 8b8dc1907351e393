//! Files spoilt at random: in their bytes, in their words, and in their structure, so that what is spoilt is still read.

use flate2::Crc;
use serde_json::{Map, Value, json};
use t5_wgpu::files::nests_too_deep;

/// What a file is made of.
#[derive(Clone, Copy, PartialEq)]
pub enum Shape {
    Bytes,
    /// Words, numbers and marks.
    Text,
    Json,
    JsonLines,
    Toml,
    /// JSON behind its length, before data.
    Safetensors,
    Protobuf,
    /// Headers with checksums.
    Xz,
}

/// Inputs are cut there.
pub const LONGEST: usize = 256 << 10;

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// Numbers that follow from the name and the count.
    pub fn new(name: &str, count: u64) -> Random {
        let seed = name.bytes().fold(count, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3).rotate_left(29));
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }

    /// Small numbers as often as large ones.
    fn size(&mut self, most: usize) -> usize {
        let bits = self.below(most.max(1).ilog2() as usize + 1);
        (1 << bits) + self.below(1 << bits)
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// One of the seeds, spoilt.
pub fn mutated(shape: Shape, seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut out = random.one(seeds).clone();
    for _ in 0..random.size(4) {
        out = match (random.below(4), shape) {
            (0, _) => bytes(out, seeds, random),
            (1, Shape::Text | Shape::Json | Shape::JsonLines | Shape::Toml) => words(&out, random),
            _ => structure(shape, out, seeds, random),
        };
    }
    out.truncate(LONGEST);
    if shape == Shape::Xz {
        xz_checksums(&mut out);
    }
    out
}

fn structure(shape: Shape, input: Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let changed = match shape {
        Shape::Bytes | Shape::Xz => None,
        Shape::Text => Some(words(&input, random)),
        Shape::Json => json_text(&input, random),
        Shape::JsonLines => {
            let mut lines: Vec<Vec<u8>> = input.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
            let at = random.below(lines.len());
            json_text(&lines[at], random).map(|line| {
                lines[at] = line;
                lines.join(&b'\n')
            })
        }
        Shape::Toml => std::str::from_utf8(&input).ok().filter(|text| !nests_too_deep(text)).and_then(|text| {
            let mut value: Value = toml::from_str(text).ok()?;
            spoil(&mut value, random);
            toml::to_string(&value).ok().map(String::into_bytes)
        }),
        Shape::Safetensors => safetensors(&input, random),
        Shape::Protobuf => protobuf(&input, random, 3),
    };
    changed.unwrap_or_else(|| bytes(input, seeds, random))
}

fn bytes(mut out: Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const NUMBERS: [u64; 10] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX >> 1, u64::MAX];
    if out.is_empty() {
        out.push(0);
    }
    let at = random.below(out.len());
    let end = (at + random.size(64)).min(out.len());
    match random.below(8) {
        0 => out[at] ^= 1 << random.below(8),
        1 => out[at] = random.next() as u8,
        2 => out.truncate(at),
        3 => drop(out.drain(at..end)),
        4 => {
            let piece = out[at..end].repeat(random.size(1024));
            out.splice(at..at, piece);
        }
        5 => {
            let number = random.one(&NUMBERS).to_le_bytes();
            let n = (1 << random.below(4)).min(out.len() - at);
            out[at..at + n].copy_from_slice(&number[..n]);
        }
        6 => {
            let other = random.one(seeds);
            out.truncate(at);
            out.extend_from_slice(&other[random.below(other.len())..]);
        }
        _ => {
            let other = random.below(out.len());
            out.swap(at, other);
        }
    }
    out
}

/// Numbers that are none, or too large for something.
const NUMBERS: [&str; 22] = [
    "0",
    "-1",
    "-0.0",
    "1",
    "3",
    "0.5",
    "1e-400",
    "1e309",
    "1e18",
    "NaN",
    "nan",
    "inf",
    "-Infinity",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "1000000000000",
    "9223372036854775808",
    "18446744073709551615",
    "123456789012345678901234567890",
];

/// Texts that something takes for more than text.
const TEXTS: [&str; 26] = [
    "",
    " ",
    "\t",
    "\n",
    "\r",
    "\0",
    "\u{1b}[2J",
    "\u{feff}",
    "\u{fffd}",
    "\u{10ffff}",
    "\u{2581}",
    "e\u{301}",
    "\u{200d}",
    "<unk>",
    "</s>",
    "<pad>",
    "<extra_id_0>",
    "<extra_id_",
    "{",
    "}",
    "{text | replace(\"\", \"x\")}",
    "*",
    "../x",
    "(a+)+$",
    "a|b",
    "null",
];

const MARKS: [&str; 14] = ["[", "]", "{", "}", "\"", "'", ",", ":", "=", "\\", "\n", "\t", "#", "[["];

/// Cuts a text into words, numbers and single marks, and changes some.
fn words(input: &[u8], random: &mut Random) -> Vec<u8> {
    let class = |b: u8| {
        if b.is_ascii_digit() {
            1
        } else if b.is_ascii_alphabetic() || b >= 0x80 || b == b'_' {
            2
        } else {
            0
        }
    };
    let mut words: Vec<Vec<u8>> =
        input.chunk_by(|&a, &b| class(a) == class(b) && class(a) > 0).map(<[u8]>::to_vec).collect();
    let at = random.below(words.len());
    let end = (at + random.size(16)).min(words.len());
    let new = match random.below(6) {
        0 => random.one(&NUMBERS).as_bytes().to_vec(),
        1 => random.one(&TEXTS).as_bytes().to_vec(),
        2 => random.one(&MARKS).repeat(random.size(LONGEST)).into_bytes(),
        3 => {
            let piece = words[at..end].concat();
            piece.repeat(times(piece.len(), 4096, random))
        }
        4 => words.get(random.below(words.len())).cloned().unwrap_or_default(),
        _ => Vec::new(),
    };
    // In place of a word, or before it.
    let until = (at + random.below(2)).min(words.len());
    words.splice(at..until, [new]);
    words.concat()
}

fn json_text(input: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(input).ok()?;
    spoil(&mut value, random);
    Some(value.to_string().into_bytes())
}

/// Changes something somewhere in a tree.
/// How often something of this length is repeated, so that the input does not become much longer than inputs are.
fn times(len: usize, most: usize, random: &mut Random) -> usize {
    random.size(most).min(LONGEST / len.max(1) + 1)
}

fn spoil(root: &mut Value, random: &mut Random) {
    let mut count = 0;
    visit(root, &mut |_| count += 1);
    let (at, from) = (random.below(count), random.below(count));
    let (mut number, mut other) = (0, Value::Null);
    visit(root, &mut |value| {
        if number == from {
            other = value.clone();
        }
        number += 1;
    });
    number = 0;
    visit(root, &mut |value| {
        if number == at {
            change(value, &other, random);
        }
        number += 1;
    });
}

fn visit(value: &mut Value, call: &mut dyn FnMut(&mut Value)) {
    call(value);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| visit(item, call)),
        Value::Object(map) => map.values_mut().for_each(|item| visit(item, call)),
        _ => {}
    }
}

fn change(value: &mut Value, other: &Value, random: &mut Random) {
    match (random.below(6), &mut *value) {
        (0, Value::Array(items)) => items.truncate(random.below(items.len() + 1)),
        (1, Value::Array(items)) => (0..random.size(256)).for_each(|_| items.push(other.clone())),
        (0, Value::Object(map)) => {
            let name = map.keys().nth(random.below(map.len())).cloned();
            name.map(|name| map.remove(&name));
        }
        (1, Value::Object(map)) => {
            let name = map.keys().nth(random.below(map.len())).cloned().unwrap_or_default();
            map.insert(random.one(&[&*name, "", "x.y", "\u{1b}[2J", "type"]).to_string(), other.clone());
        }
        (2, _) => *value = other.clone(),
        (3, _) => {
            for _ in 0..random.size(60) {
                let inner = value.take();
                *value =
                    if random.below(2) == 0 { json!([inner]) } else { Map::from_iter([("x".into(), inner)]).into() };
            }
        }
        (4, Value::String(text)) => *text = text.repeat(times(text.len(), 4096, random)),
        (4 | 5, _) if random.below(2) == 0 => *value = json!(random.one(&TEXTS)),
        (4, _) => *value = random.one(&[json!(null), json!(true), json!([]), json!({})]).clone(),
        // What no JSON number can be stays a text.
        _ => {
            let number = *random.one(&NUMBERS);
            *value = serde_json::from_str(number).unwrap_or(json!(number));
        }
    }
}

fn safetensors(input: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let (length, rest) = input.split_first_chunk()?;
    let (header, data) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
    let header = if random.below(2) == 0 { words(header, random) } else { json_text(header, random)? };
    Some([(header.len() as u64).to_le_bytes().as_slice(), header.as_slice(), data].concat())
}

/// Changes a field of a message, or of a message in it; lengths stay right.
fn protobuf(input: &[u8], random: &mut Random, depth: usize) -> Option<Vec<u8>> {
    // (with its tag, the payload of a field that has a length)
    let mut fields: Vec<(&[u8], Option<&[u8]>)> = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let (tag, after) = varint(rest)?;
        let payload = match tag & 7 {
            0 => (None, varint(after)?.1),
            1 => (None, after.get(8..)?),
            2 => {
                let (length, after) = varint(after)?;
                let (payload, after) = after.split_at_checked(length as usize)?;
                (Some(payload), after)
            }
            5 => (None, after.get(4..)?),
            _ => return None,
        };
        fields.push((&rest[..rest.len() - payload.1.len()], payload.0));
        rest = payload.1;
    }
    let at = random.below(fields.len());
    let (field, payload) = *fields.get(at)?;
    let new = match (random.below(5), payload) {
        (0, _) => Vec::new(),
        (1, _) => field.repeat(times(field.len(), 1024, random)),
        (2, _) => fields[random.below(fields.len())].0.to_vec(),
        (_, Some(payload)) => {
            let inner = (depth > 0).then(|| protobuf(payload, random, depth - 1)).flatten();
            let text = || random.one(&TEXTS).repeat(random.size(4096)).into_bytes();
            let inner = inner.unwrap_or_else(text);
            let mut length = inner.len();
            let mut out = vec![field[0]];
            while length > 127 {
                out.push(length as u8 | 0x80);
                length >>= 7;
            }
            out.push(length as u8);
            [out, inner].concat()
        }
        (_, None) => {
            let mut field = field.to_vec();
            let last = field.len() - 1;
            field[1 + random.below(last)] = random.next() as u8;
            field
        }
    };
    let mut out: Vec<&[u8]> = fields.iter().map(|(field, _)| *field).collect();
    out[at] = &new;
    Some(out.concat())
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let n = bytes.iter().take(10).position(|&byte| byte < 0x80)? + 1;
    let value = bytes[..n].iter().rev().fold(0, |value: u64, &byte| value << 7 | u64::from(byte & 0x7f));
    Some((value, &bytes[n..]))
}

/// Makes the checksums of the stream's and the first block's header right again.
fn xz_checksums(out: &mut [u8]) {
    let block = out.get(12).map_or(0, |&size| (usize::from(size) + 1) * 4);
    for (from, to) in [(6, 8), (12, 12 + block.max(4) - 4)] {
        let mut crc = Crc::new();
        if let Some(place) = out.get(from..to).map(|covered| crc.update(covered)).and_then(|()| out.get_mut(to..to + 4))
        {
            place.copy_from_slice(&crc.sum().to_le_bytes());
        }
    }
}
