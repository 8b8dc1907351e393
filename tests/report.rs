//! The page of `t5 report`: what it takes from runs' folders, and what it makes of damaged ones.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::Scratch;
use t5_wgpu::report::{Report, ReportOptions, report, summary};

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn log(per: f64) -> String {
    let mut text = String::from("{\"event\":\"kernels\",\"step\":1,\"choices\":[]}\n");
    for step in 1..=20 {
        let loss = if step == 3 { "null".to_owned() } else { format!("{}", 5.0 / f64::from(step)) };
        text += &format!(
            "{{\"event\":\"step\",\"step\":{step},\"steps\":20,\"epoch\":0.5,\"loss\":{loss},\"lr\":0.001,\"tokens\":{},\
             \"tokens_per_second\":50.0,\"elapsed\":{step}}}\n",
            step * 50
        );
    }
    for (step, worse) in [(10, 9.0), (20, 0.0)] {
        text += &format!(
            "{{\"event\":\"evaluation\",\"step\":{step},\"tasks\":{{\"say\":{{\"examples\":4,\"tokens\":9,\"loss\":1.25,\
             \"accuracy\":0.5,\"bits_per_byte\":2.5,\"metrics\":{{\"per\":{}}}}}}},\"metric\":\"say/per\",\
             \"value\":1.0,\"best\":true,\"seconds\":1.0}}\n",
            per + worse
        );
    }
    text + "{\"event\":\"warning\",\"step\":3,\"what\":\"loss is <nan>\"}\n{\"event\":\"from the future\",\"step\":9}\n"
}

fn recipe_run(folder: &Path, d_model: u32, per: f64) {
    let recipe = format!(
        "seed = 1\n[model]\nd_model = {d_model}\n[[stage]]\nname = \"warm\"\n[[stage]]\nname = \"all\"\n[[stage]]\nname = \"exam\"\n"
    );
    write(&folder.join("recipe.toml"), &recipe);
    write(&folder.join("warm/log.jsonl"), &log(per + 1.0));
    write(&folder.join("all/log.jsonl"), &log(per));
    let metrics = format!(
        r#"{{"step":20,"tasks":{{"say":{{"examples":4,"loss":1.0,"metrics":{{"per":{per}}},
           "scores":[{{"name":"per","value":{per},"better":"lower","counts":{{}},"signature":"how"}}]}}}}}}"#
    );
    write(&folder.join("exam/metrics.json"), &metrics);
    let predictions = "{\"source\":\"a <b>&\",\"prediction\":\"x\",\"references\":[\"x\",\"y\"],\"correct\":true}\n\
                       {\"source\":\"c\",\"prediction\":\"\",\"references\":[\"z\"],\"correct\":false}\n";
    write(&folder.join("exam/predictions/say.jsonl"), predictions);
}

fn page(folders: &[PathBuf]) -> Report {
    report(folders, &ReportOptions::default()).unwrap()
}

#[test]
fn runs_of_recipes_lie_over_each_other() {
    let scratch = Scratch::new("report-recipes");
    let folders = [scratch.path("small"), scratch.path("large")];
    recipe_run(&folders[0], 64, 12.5);
    recipe_run(&folders[1], 128, 10.25);
    let Report { html, remarks } = page(&folders);
    assert_eq!(remarks, Vec::<String>::new());
    assert_eq!(html, page(&folders).html, "the page is a function of the files");
    assert!(html.contains("<title>small and large</title>"));
    let at = |what: &str| html.find(what).unwrap_or_else(|| panic!("no {what:?}"));
    assert!(at("<h2>Stage warm</h2>") < at("<h2>Stage all</h2>"), "stages keep the recipe's order");
    assert!(!html.contains("<h2>Stage exam</h2>"), "an evaluation alone has no curve");
    assert!(at("say · per") > at("Training loss"));
    assert!(html.contains("say · bits per byte") && html.contains("2.50"));
    assert!(html.contains("<b>10.25</b>"), "the best run of a column stands out");
    assert!(html.contains("<code>model.d_model</code>") && !html.contains("<code>seed</code>"), "only what differs");
    assert!(html.contains("per: <code>how</code>"));
    assert!(html.contains("a &lt;b&gt;&amp;") && !html.contains("a <b>&"), "text is text");
    assert!(html.contains("loss is &lt;nan&gt;"));
    assert!(html.contains("class=\"prediction right\"") && html.contains("class=\"prediction wrong\""));
    assert!(html.contains("(empty)"));
    assert!(!html.contains("NaN") && !html.contains("inf\""), "what is not finite is not drawn");
}

#[test]
fn the_page_needs_no_network() {
    let scratch = Scratch::new("report-network");
    recipe_run(&scratch.path("run"), 64, 12.5);
    let html = page(&[scratch.path("run")]).html.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "<link", "@import", "url(", " src="] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn tags_are_closed() {
    let scratch = Scratch::new("report-tags");
    recipe_run(&scratch.path("run"), 64, 12.5);
    let html = page(&[scratch.path("run")]).html;
    let body = &html[html.find("<body>").unwrap()..html.find("<script>").unwrap()];
    let mut open = Vec::new();
    for tag in body.split('<').skip(1) {
        let name = tag.split(['>', ' ', '/']).find(|part| !part.is_empty()).unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closed by {tag:.30}");
        } else if !matches!(name, "input" | "meta") && !tag.split('>').next().unwrap().ends_with('/') {
            open.push(name);
        }
    }
    assert_eq!(open, ["body"]);
}

#[test]
fn unfinished_and_plain_runs_are_shown() {
    let scratch = Scratch::new("report-plain");
    write(&scratch.path("a/run/log.jsonl"), &(log(3.0) + "{\"event\":\"step\",\"st"));
    write(&scratch.path("b/run/log.jsonl"), &format!("no json\n{}", log(2.0)));
    write(&scratch.path("b/run/last/config.json"), "{\"d_model\": 64}");
    write(&scratch.path("empty/log.jsonl"), "");
    let folders = [scratch.path("a/run"), scratch.path("b/run"), scratch.path("empty")];
    let Report { html, remarks } = page(&folders);
    assert!(html.contains("<h2>Training</h2>") && html.contains("a/run") && html.contains("b/run"));
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    assert!(remarks[0].contains("no events were skipped: 1"), "{remarks:?}");
    assert!(remarks[1].contains("nothing has been logged yet"), "{remarks:?}");
    let titled = ReportOptions { title: Some("A & B".into()), samples: 0, stages: false };
    assert!(report(&folders[..1], &titled).unwrap().html.contains("<h1>A &amp; B</h1>"));
}

#[test]
fn what_is_no_run_is_named() {
    let scratch = Scratch::new("report-wrong");
    let message = |name: &str| report(&[scratch.path(name)], &ReportOptions::default()).unwrap_err().to_string();
    assert!(message("missing").contains("cannot open the run's folder"), "{}", message("missing"));
    write(&scratch.path("other/notes.txt"), "x");
    assert!(message("other").contains("neither log.jsonl nor recipe.toml"), "{}", message("other"));
    write(&scratch.path("recipe/recipe.toml"), "seed = 1\nlr 5\n");
    assert!(message("recipe").contains("recipe.toml:2: not a recipe"), "{}", message("recipe"));
    write(&scratch.path("metrics/exam/metrics.json"), "{\"step\": 1,\n \"tasks\": 5}");
    assert!(message("metrics").contains("metrics.json:2"), "{}", message("metrics"));
    write(&scratch.path("said/exam/predictions/t.jsonl"), "{\"source\":\"a\"}\n{\n");
    assert!(message("said").contains("t.jsonl:2: not a prediction"), "{}", message("said"));
    assert!(report(&[], &ReportOptions::default()).is_err());
}

/// The tables of the results, by their headings.
fn table<'a>(html: &'a str, heading: &str) -> &'a str {
    let start = html.find(heading).unwrap_or_else(|| panic!("no {heading}"));
    let table = &html[start..];
    &table[..table.find("</table>").unwrap()]
}

#[test]
fn splits_are_not_compared() {
    let scratch = Scratch::new("report-splits");
    let folders = [scratch.path("small"), scratch.path("large")];
    for (folder, per) in folders.iter().zip([12.5, 10.25]) {
        recipe_run(folder, 64, per);
        // The test set is easier here.
        let metrics =
            format!(r#"{{"split":"test","tasks":{{"say":{{"examples":7,"metrics":{{"per":{}}}}}}}}}"#, per - 8.0);
        write(&folder.join("exam/metrics.json"), &metrics);
    }
    let html = page(&folders).html;
    let (validation, test) = (
        table(&html, "<h3>say <span class=\"dim\">validation</span></h3>"),
        table(&html, "<h3>say <span class=\"dim\">test</span></h3>"),
    );
    assert!(validation.contains("<b>10.25</b>") && !validation.contains("2.25"), "{validation}");
    assert!(test.contains("<b>2.25</b>") && test.contains("4.50") && !test.contains("10.25"), "{test}");
    assert!(test.contains("<td class=\"n\">7</td>") && !test.contains('@'), "{test}");
    // What an older program wrote says nothing of its split, but its recipe may.
    let old = scratch.path("old");
    recipe_run(&old, 64, 5.5);
    assert!(
        table(&page(std::slice::from_ref(&old)).html, "<h3>say <span class=\"dim\">split unknown</span>")
            .contains("5.50")
    );
    let recipe = fs::read_to_string(old.join("recipe.toml")).unwrap().replace("\"exam\"", "\"exam\"\nsplit = \"test\"");
    write(&old.join("recipe.toml"), &recipe);
    assert!(table(&page(&[old]).html, "<h3>say <span class=\"dim\">test</span>").contains("5.50"));
}

#[test]
fn stages_are_runs_when_asked_and_folders_of_tests_are_runs() {
    let scratch = Scratch::new("report-stages");
    let run = scratch.path("run");
    recipe_run(&run, 64, 12.5);
    write(&run.join("all/metrics.json"), r#"{"split":"test","tasks":{"say":{"examples":4,"metrics":{"per":9.0}}}}"#);
    write(
        &run.join("all/predictions/say.jsonl"),
        "{\"source\":\"c\",\"prediction\":\"z\",\"references\":[\"z\"],\"correct\":true}\n",
    );
    let html = page(std::slice::from_ref(&run)).html;
    assert!(
        html.contains("<span class=\"dim\">exam</span> <span title")
            && html.contains("<span class=\"dim\">all</span> <span title")
    );
    let options = ReportOptions { stages: true, ..ReportOptions::default() };
    let html = report(std::slice::from_ref(&run), &options).unwrap().html;
    assert_eq!(html.matches("<h2>Training</h2>").count(), 1, "one figure for all");
    for stage in ["run/warm", "run/all", "run/exam"] {
        assert!(html.contains(stage), "{stage}");
    }
    let html = page(&[run.join("exam"), run.join("warm")]).html;
    assert!(html.contains("<title>exam and warm</title>") && html.contains("(empty)"), "a test's folder");
}

#[test]
fn a_run_is_summed_up_in_a_table() {
    let scratch = Scratch::new("report-summary");
    recipe_run(&scratch.path("run"), 64, 12.5);
    write(
        &scratch.path("run/exam/metrics.json"),
        r#"{"split":"test","tasks":{"say":{"examples":40,"loss":0.5,"metrics":{"per":9.0}}}}"#,
    );
    let table = summary(&scratch.path("run")).unwrap();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[0],
        ["stage", "step", "task", "split", "examples", "loss", "token", "accuracy", "per", "bits", "per", "byte"]
    );
    assert_eq!(lines[1], ["warm", "20", "say", "validation", "4", "1.2500", "50.00", "13.50", "2.50"]);
    assert_eq!(lines[3], ["exam", "-", "say", "test", "40", "0.5000", "-", "9.00", "-"]);
    write(&scratch.path("new/recipe.toml"), "[[stage]]\nname = \"a\"\n");
    assert_eq!(summary(&scratch.path("new")).unwrap(), "");
}
