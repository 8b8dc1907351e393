//! Texts from arguments, from a file or from standard input.

use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::Result;
use t5_wgpu::data::lines::Lines;

/// A source and where it came from, for messages.
pub struct Source {
    pub text: String,
    pub place: String,
}

/// Sources from arguments or from lines.
pub struct Sources<'a> {
    arguments: std::slice::Iter<'a, String>,
    lines: Option<Lines>,
    /// Where they are from, for messages.
    name: String,
    taken: usize,
    /// Someone types the lines.
    pub interactive: bool,
    pub is_single: bool,
}

impl<'a> Sources<'a> {
    /// The texts, else the lines of the file ("-": standard input), else those of standard input.
    pub fn open(texts: &'a [String], file: Option<&Path>) -> Result<Sources<'a>> {
        let mut sources = Sources {
            arguments: texts.iter(),
            lines: None,
            name: "argument ".into(),
            taken: 0,
            interactive: false,
            is_single: texts.len() == 1,
        };
        match file {
            Some(path) if path.as_os_str() != "-" => {
                sources.lines = Some(Lines::open(path)?);
                sources.name = format!("{}:", path.display());
            }
            None if !texts.is_empty() => {}
            _ => {
                sources.interactive = io::stdin().is_terminal();
                sources.lines = Some(Lines::stdin());
                sources.name = "stdin:".into();
            }
        }
        Ok(sources)
    }

    /// Up to `count` sources; none at the end.
    pub fn take(&mut self, count: usize) -> Result<Vec<Source>> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let text = match &mut self.lines {
                None => self.arguments.next().cloned(),
                Some(lines) => lines.next_text()?.map(|(_, line)| line.to_owned()),
            };
            let Some(text) = text else { break };
            self.taken += 1;
            taken.push(Source { text, place: format!("{}{}", self.name, self.taken) });
        }
        Ok(taken)
    }
}
