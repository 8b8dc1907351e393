//! The page: its order, and what holds it together.

use std::fmt::Write;

use super::figures::{self, Figure};
use super::read::Run;
use super::results;
use super::samples::samples;
use super::svg::{self, Against};
use crate::data::metrics::Direction;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

pub(super) struct Page<'a> {
    pub title: &'a str,
    pub runs: &'a [Run],
    pub samples: usize,
}

impl Page<'_> {
    pub(super) fn html(&self) -> String {
        let mut html = Page::bar(self.runs.iter().map(|run| (run.name.as_str(), run.folder.display().to_string())));
        for stage in Page::stage_names(self.runs) {
            let figures = figures::of_stage(self.runs, &stage);
            if !figures.is_empty() {
                let title = if stage.is_empty() { "Training".into() } else { format!("Stage {}", escape(&stage)) };
                let drawn: String = figures.iter().map(card).collect();
                section(&mut html, &title, &format!("<div class=\"figures\">{drawn}</div>"));
            }
        }
        section(&mut html, "Results", &results::results(self.runs));
        section(&mut html, "Cost", &results::cost(self.runs));
        section(&mut html, "Settings that differ", &results::settings(self.runs));
        section(&mut html, "Predictions", &samples(self.runs, self.samples));
        section(&mut html, "Warnings", &results::warnings(self.runs));
        document(self.title, "t5 report", &html, &Page::script())
    }

    /// What stands behind the sections: values under the pointer, and the legend's work.
    pub(super) fn script() -> String {
        format!("<div id=\"tip\" hidden></div>\n<script>\n{SCRIPT}</script>\n")
    }

    /// The legend of names, each with what the pointer shows of it, and the choice of what curves are drawn against; it stays in view.
    pub(super) fn bar<'n>(names: impl Iterator<Item = (&'n str, String)>) -> String {
        let mut html = String::from("<nav><div class=\"legend\">");
        for (i, (name, about)) in names.enumerate() {
            let (name, about) = (key(i, name), escape(&about));
            let _ = write!(
                html,
                "<label title=\"{about}\"><input type=\"checkbox\" data-run=\"{i}\" checked>{name}</label>"
            );
        }
        html.push_str("</div><div class=\"against\">");
        for against in Against::ALL {
            let (name, checked) = (against.name(), if against == Against::Steps { " checked" } else { "" });
            let _ = write!(
                html,
                "<label><input type=\"radio\" name=\"against\" id=\"by-{name}\"{checked}><span>{name}</span></label>"
            );
        }
        html.push_str("</div></nav>\n");
        html
    }

    /// In the order of the first run that has them.
    pub(super) fn stage_names(runs: &[Run]) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for stage in runs.iter().flat_map(|run| &run.stages) {
            if !names.contains(&stage.name) {
                names.push(stage.name.clone());
            }
        }
        names
    }
}

/// A whole page in the style of all pages: its sections, who wrote it, and what comes behind.
pub(crate) fn document(title: &str, writer: &str, sections: &str, after: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header><h1>{0}</h1></header>\n<main>\n{sections}</main>\n\
         <footer>Written by <code>{writer}</code> {version}</footer>\n{after}</body>\n</html>\n",
        escape(title)
    )
}

pub(super) fn card(figure: &Figure) -> String {
    let better = match figure.better {
        Some(Direction::Higher) => "↑ ",
        Some(Direction::Lower) => "↓ ",
        None => "",
    };
    let drawings: String = Against::ALL
        .iter()
        .map(|against| format!("<div class=\"by {}\">{}</div>", against.name(), svg::draw(figure, *against)))
        .collect();
    format!(
        "<figure><figcaption><b>{}</b> <span class=\"dim\">{better}{}</span></figcaption>{drawings}</figure>",
        escape(&figure.title),
        escape(figure.about)
    )
}

/// Nothing for an empty body.
pub(crate) fn section(html: &mut String, title: &str, body: &str) {
    if !body.is_empty() {
        let _ = writeln!(html, "<section><h2>{title}</h2>{body}</section>");
    }
}

/// A run's colour and name.
pub(super) fn key(run: usize, name: &str) -> String {
    format!("<span class=\"key {}\"></span>{}", svg::class_of(run), escape(name))
}

/// Text as HTML, between tags or within quotes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(c),
        }
    }
    escaped
}
