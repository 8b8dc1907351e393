//! What is put before each source: as the flags say, or as the model was trained.

use anyhow::{Result, anyhow};
use t5_wgpu::model::T5Config;

use super::console::note;

/// What is put before each source.
pub struct Prefix {
    pub text: String,
    /// The model's task that it belongs to.
    pub task: Option<String>,
    /// Nobody asked for it: sources that begin with it stay as they are.
    by_itself: bool,
}

/// The flags of a command that puts a prefix before each source.
#[derive(clap::Args, Debug)]
pub struct PrefixArgs {
    /// Put this before each source, e.g. "summarize: " [default: that of the model's task, if it knows exactly one, before
    /// sources that do not begin with it already]
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["no_prefix", "task"])]
    prefix: Option<String>,
    /// Put nothing before the sources
    #[arg(long, conflicts_with = "task")]
    no_prefix: bool,
    /// Put the prefix of this task of the model before each source
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
}

impl PrefixArgs {
    pub fn wish(&self) -> Wish<'_> {
        let (prefix, task) = (self.prefix.as_deref(), self.task.as_deref());
        Wish { prefix, none: self.no_prefix, task, chosen_by: "--task" }
    }
}

/// What the flags say.
pub struct Wish<'a> {
    pub prefix: Option<&'a str>,
    pub none: bool,
    pub task: Option<&'a str>,
    /// The flag that chooses one of several tasks.
    pub chosen_by: &'static str,
}

impl Prefix {
    /// As the flags say, or as the model's folder does; says which, unless `quiet`.
    pub fn choose(wish: Wish<'_>, config: &T5Config, quiet: bool) -> Result<Prefix> {
        let known = config.prefixes();
        let list = || known.iter().map(|(task, prefix)| format!("{task} ({prefix:?})")).collect::<Vec<_>>().join(", ");
        let asked = |text: &str, task: Option<&str>| {
            let task = task.map(str::to_owned);
            Prefix { text: text.to_owned(), task, by_itself: false }
        };
        if let Some(task) = wish.task {
            return match known.get(task) {
                Some(prefix) => Ok(asked(prefix, Some(task))),
                None if known.is_empty() => Err(anyhow!("--task {task}: the model's config.json names no tasks")),
                None => Err(anyhow!("--task {task}: the model knows no such task; there are {}", list())),
            };
        }
        if wish.none || wish.prefix.is_some() {
            return Ok(asked(wish.prefix.unwrap_or_default(), None));
        }
        let only = known.keys().next().filter(|_| known.len() == 1).cloned();
        let text = match known.iter().next() {
            Some((task, prefix)) if known.len() == 1 && !prefix.is_empty() => {
                if !quiet {
                    note!("prefix: {prefix:?}, as the task {task} was trained with (--no-prefix leaves it out)");
                }
                prefix.clone()
            }
            Some(_) if known.values().any(|prefix| !prefix.is_empty()) => {
                if !quiet {
                    note!("no prefix: the model knows several tasks, choose one with {}: {}", wish.chosen_by, list());
                }
                String::new()
            }
            _ => String::new(),
        };
        Ok(Prefix { text, task: only, by_itself: true })
    }

    pub fn before(&self, source: &str) -> String {
        let has_it = self.by_itself && source.starts_with(&self.text);
        if has_it { source.to_owned() } else { format!("{}{source}", self.text) }
    }
}
