//! Results as one page that needs nothing else: no network, no script. Pictures are SVG and follow the reader's light
//! or dark preference.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use crate::run::Film;
use crate::sweep::SHOWN;
use crate::tune::{TuneFile, TuneRow};

/// What is left of a run or a sweep in a file.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum ResultFile {
    /// One run, of `run --result`.
    Run(RunResult),
    /// A sweep, of `sweep --format json`.
    Sweep(Vec<SweepRow>),
    /// A search, of `tune --out`.
    Tune(TuneFile),
}

/// The part of an outcome that a page shows.
#[derive(Debug, Deserialize)]
pub struct RunResult {
    seed: u64,
    hash: String,
    failures: Vec<String>,
    figures: BTreeMap<String, f64>,
    film: Option<Film>,
}

/// The part of a sweep's row that a page shows.
#[derive(Debug, Deserialize)]
pub struct SweepRow {
    point: Vec<(String, String)>,
    figures: BTreeMap<String, MeanResult>,
}

/// A mean over seeds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct MeanResult {
    mean: f64,
    ci95: f64,
}

/// The page's measures, in CSS pixels.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 34.0;
const RIGHT: f64 = 18.0;

/// Lines for the names of acts.
const ACT_LINES: usize = 5;

/// Rows of a timeline are at most this high, and the whole at most this.
const ROW_MAX: f64 = 14.0;
const ROWS_HIGH_MAX: f64 = 720.0;

/// Frames that a timeline shows; of more, every so-manieth.
const FRAMES_MAX: usize = 240;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6577; --paper: #fbfbf9; --line: #d6d9de;
  --b0: #c8402f; --b1: #dd7b3a; --b2: #e8b95a; --b3: #b9d28c; --b4: #4f9d69; --off: #e4e6ea; --act: #3557a8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --soft: #9aa4b5; --paper: #14181f; --line: #333b48;
  --b0: #e4604f; --b1: #d9823f; --b2: #c9a04a; --b3: #7f9f58; --b4: #3d8257; --off: #252b35; --act: #8fb0ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1000px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.b0 { fill: var(--b0); } .b1 { fill: var(--b1); } .b2 { fill: var(--b2); } .b3 { fill: var(--b3); }
.b4 { fill: var(--b4); } .off { fill: var(--off); } .act { stroke: var(--act); stroke-dasharray: 3 3; }
svg text.actname { fill: var(--act); } .axis { stroke: var(--line); } .dot { fill: var(--act); }
.faint { fill: var(--soft); opacity: .5; } .chosen { fill: var(--b4); } .wish { fill: var(--b4); opacity: .13; }
.bar { stroke: var(--act); stroke-width: 1.5; opacity: .55; }
table { border-collapse: collapse; font-size: 13px; }
td, th { padding: .15rem .7rem; border-bottom: 1px solid var(--line);
  text-align: right; } td:first-child, th:first-child { text-align: left; }
.fail { color: var(--b0); } .ok { color: var(--b4); } code { font-size: 12px; }
.key span { display: inline-block; width: 1em; height: 1em; vertical-align: -2px; margin: 0 .3em 0 1em; }
";

/// One page about these results, each with the name of its file.
pub fn page(results: &[(String, ResultFile)]) -> String {
    let mut body = String::new();
    for (name, result) in results {
        match result {
            ResultFile::Run(run) => body += &run_section(name, run),
            ResultFile::Sweep(rows) => body += &sweep_section(name, rows),
            ResultFile::Tune(file) => body += &tune_section(name, file),
        }
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>tidings-sim</title><style>{STYLE}</style></head>\n<body><h1>What the \
         simulator saw</h1>\n{body}</body></html>\n"
    )
}

fn run_section(name: &str, run: &RunResult) -> String {
    let verdict = if run.failures.is_empty() {
        "<span class=\"ok\">everything held</span>".to_owned()
    } else {
        let items: String = run.failures.iter().map(|failure| format!("<li>{}</li>", escape(failure))).collect();
        format!("<span class=\"fail\">did not hold</span><ul>{items}</ul>")
    };
    let mut text = format!(
        "<section><h2>{}</h2><p>Seed {}, hash <code>{}</code>: {verdict}</p>\n",
        escape(name),
        run.seed,
        escape(&run.hash)
    );
    if let Some(film) = &run.film {
        text += &timeline(film);
    }
    let row = |(name, value): (&String, &f64)| format!("<tr><td>{}</td><td>{}</td></tr>", escape(name), number(*value));
    let rows: String = run.figures.iter().map(row).collect();
    text + &format!("<table><tr><th>figure</th><th>value</th></tr>{rows}</table></section>\n")
}

/// Members by time, coloured by the share of the others that count them as present; faults as dashed lines.
fn timeline(film: &Film) -> String {
    let hosts = film.believed.iter().map(Vec::len).max().unwrap_or(0);
    let (Some(&first), Some(&last)) = (film.at_s.first(), film.at_s.last()) else { return String::new() };
    if hosts == 0 || last <= first {
        return String::new();
    }
    let row = (ROWS_HIGH_MAX / hosts as f64).min(ROW_MAX);
    // Names of acts that lie near each other stand on lines of their own.
    let top = 14.0 + 12.0 * film.acts.len().min(ACT_LINES) as f64;
    let (high, span) = (row * hosts as f64, last - first);
    let x = |at: f64| LEFT + (at - first) / span * (WIDTH - LEFT - RIGHT);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"members by time, coloured by what the others \
         believe\">\n",
        top + high + BOTTOM
    );
    let stride = film.at_s.len().div_ceil(FRAMES_MAX);
    let frames: Vec<usize> = (0..film.at_s.len()).step_by(stride.max(1)).collect();
    for host in 0..hosts {
        let class_at = |frame: usize| class(film.believed[frame].get(host).copied().unwrap_or(-1));
        let y = top + row * host as f64;
        let mut begin = 0;
        while begin < frames.len() {
            // Frames of one colour are one rectangle.
            let of = class_at(frames[begin]);
            let same = frames[begin..].iter().take_while(|frame| class_at(**frame) == of).count();
            let from = x(film.at_s[frames[begin]]);
            let to = frames.get(begin + same).map_or(x(last), |frame| x(film.at_s[*frame]));
            let _ = writeln!(
                svg,
                "<rect class=\"{of}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                to - from,
                (row - 1.0).max(0.8)
            );
            begin += same;
        }
        if host % (hosts.div_ceil(24)) == 0 {
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">n{host}</text>", LEFT - 6.0, y + row);
        }
    }
    for (index, (at, what)) in film.acts.iter().enumerate() {
        let at = x(at.clamp(first, last));
        let line = 12.0 + (index % ACT_LINES) as f64 * 12.0;
        let name = what.split('(').next().unwrap_or(what).to_lowercase();
        let (beside, anchor) = if at > WIDTH - 110.0 { (at - 3.0, "end") } else { (at + 3.0, "start") };
        let _ = writeln!(
            svg,
            "<line class=\"act\" x1=\"{at:.1}\" y1=\"{line:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\"><title>{}</title></line>\
             <text class=\"actname\" x=\"{beside:.1}\" y=\"{line:.1}\" text-anchor=\"{anchor}\">{}</text>",
            top + high,
            escape(what),
            escape(&name)
        );
    }
    let step = nice_step(span / 8.0);
    let mut at = (first / step).ceil() * step;
    while at <= last {
        let (place, below) = (x(at), top + high + 18.0);
        let _ = writeln!(svg, "<text x=\"{place:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{at:.0} s</text>");
        at += step;
    }
    svg += "</svg>\n";
    let keys = [
        ("b4", "all others count it as present"),
        ("b3", "most"),
        ("b2", "half"),
        ("b1", "few"),
        ("b0", "nobody"),
        ("off", "not running"),
    ];
    let key: String = keys.iter().map(|(c, w)| format!("<span style=\"background:var(--{c})\"></span>{w}")).collect();
    format!("<figure>{svg}<figcaption class=\"key\">{key}</figcaption></figure>\n")
}

/// The least of 1, 2, 5, 10, 20, 50 ... that is not below `least`.
fn nice_step(least: f64) -> f64 {
    let unit = 10f64.powf(least.max(1.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * unit).find(|step| *step >= least).unwrap_or(unit)
}

fn class(believed: i8) -> &'static str {
    match believed {
        ..0 => "off",
        0..=4 => "b0",
        5..=39 => "b1",
        40..=69 => "b2",
        70..=99 => "b3",
        _ => "b4",
    }
}

fn sweep_section(name: &str, rows: &[SweepRow]) -> String {
    let shown: Vec<&str> =
        SHOWN.iter().copied().filter(|name| rows.iter().any(|row| row.figures.contains_key(*name))).collect();
    let mut text = format!("<section><h2>{}</h2>\n", escape(name));
    let plots = [
        ("detect_first_p99_ms", "bytes_per_s_mean"),
        ("arrival_p99_ms", "bytes_per_s_mean"),
        ("false_downs_per_node_hour", "detect_first_p99_ms"),
    ];
    for (vertical, horizontal) in plots {
        text += &scatter(rows, horizontal, vertical);
    }
    let axes: String = rows
        .first()
        .map(|row| row.point.iter().map(|(axis, _)| format!("<th>{}</th>", escape(axis))).collect())
        .unwrap_or_default();
    let heads: String = shown.iter().map(|name| format!("<th>{name}</th>")).collect();
    text += &format!("<table><tr>{axes}{heads}</tr>");
    for row in rows {
        let point: String = row.point.iter().map(|(_, value)| format!("<td>{}</td>", escape(value))).collect();
        let cell = |name: &&str| {
            row.figures.get(*name).map_or_else(
                || "<td>-</td>".to_owned(),
                |mean| format!("<td>{} ± {}</td>", number(mean.mean), number(mean.ci95)),
            )
        };
        let cells: String = shown.iter().map(cell).collect();
        text += &format!("<tr>{point}{cells}</tr>");
    }
    text + "</table></section>\n"
}

fn tune_section(name: &str, file: &TuneFile) -> String {
    let mut text = format!("<section><h2>{}</h2>\n{}", escape(name), pareto(file));
    text += "<table><tr><th>settings</th><th>detection p99</th><th>false a month</th><th>bytes a second</th></tr>";
    for row in file.candidates.iter().filter(|row| row.is_front || row.is_shipped || row.is_chosen) {
        let detect = row.detect_p99_ms.map_or_else(|| "never".to_owned(), |ms| format!("{} s", number(ms / 1e3)));
        let (falses, bytes) = (number(row.false_per_month), number(row.bytes_per_s));
        let mark = if row.is_chosen { " (chosen)" } else { "" };
        let settings = escape(&row.settings);
        text += &format!("<tr><td>{settings}{mark}</td><td>{detect}</td><td>{falses}</td><td>{bytes}</td></tr>");
    }
    text + "</table></section>\n"
}

/// Cost by speed: whoever is lower and further left is better in both. What is wished is the shaded corner.
fn pareto(file: &TuneFile) -> String {
    let at = |row: &TuneRow| Some((row.bytes_per_s, row.detect_p99_ms? / 1e3));
    let points: Vec<(&TuneRow, (f64, f64))> = file.candidates.iter().filter_map(|row| Some((row, at(row)?))).collect();
    let corner = (file.wishes.bytes_per_s, file.wishes.detect_p99_ms / 1e3);
    let most = |of: fn((f64, f64)) -> f64| points.iter().map(|point| of(point.1)).fold(of(corner), f64::max) * 1.08;
    let (wide, high) = (most(|point| point.0), most(|point| point.1));
    if points.is_empty() || !(wide > 0.0 && high > 0.0) {
        return "<p>Nothing was measured that detects every crash.</p>\n".to_owned();
    }
    let (left, bottom) = (LEFT + 20.0, 300.0);
    let x = |value: f64| left + value / wide * (WIDTH - left - 20.0);
    let y = |value: f64| bottom - value / high * (bottom - 16.0);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} 340\" role=\"img\" aria-label=\"seconds to detection by bytes a second\">\n\
         <rect class=\"wish\" x=\"{left}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>what is \
         wished</title></rect>\n",
        y(corner.1),
        x(corner.0) - left,
        bottom - y(corner.1)
    );
    axes(&mut svg, (left, bottom), (wide, high), (&x, &y));
    for (row, (across, up)) in &points {
        let class = match (row.is_chosen, row.is_front || row.is_shipped) {
            (true, _) => "chosen",
            (_, true) => "dot",
            _ => "faint",
        };
        let (at_x, at_y, size) = (x(*across), y(*up), if class == "faint" { 2.5 } else { 4.5 });
        let _ = writeln!(
            svg,
            "<circle class=\"{class}\" cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"{size}\"><title>{}</title></circle>",
            escape(&row.settings)
        );
        for (is_so, label, rise) in [(row.is_shipped, "shipped", -8.0), (row.is_chosen, "chosen", 16.0)] {
            if is_so {
                let _ = writeln!(
                    svg,
                    "<text x=\"{at_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                    at_y + rise
                );
            }
        }
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">bytes a second and member</text>",
        WIDTH - 20.0,
        bottom + 34.0
    );
    format!("<h3>Seconds until every member knows of a crash (99 of 100)</h3>\n{svg}</svg>\n")
}

/// Lines and numbers of both axes, which begin at zero.
fn axes(
    svg: &mut String,
    (left, bottom): (f64, f64),
    (wide, high): (f64, f64),
    (x, y): (&dyn Fn(f64) -> f64, &dyn Fn(f64) -> f64),
) {
    for tick in 0..=4 {
        let share = f64::from(tick) / 4.0;
        let (at_x, at_y) = (x(wide * share), y(high * share));
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{left}\" y1=\"{at_y:.1}\" x2=\"{}\" y2=\"{at_y:.1}\"/><text x=\"{}\" \
             y=\"{:.1}\" text-anchor=\"end\">{}</text><text x=\"{at_x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            WIDTH - 20.0,
            left - 6.0,
            at_y + 4.0,
            number(high * share),
            bottom + 16.0,
            number(wide * share)
        );
    }
}

/// The points of a sweep by two figures: whoever is lower and further left is better in both.
fn scatter(rows: &[SweepRow], horizontal: &str, vertical: &str) -> String {
    let points: Vec<(&SweepRow, MeanResult, MeanResult)> =
        rows.iter().filter_map(|row| Some((row, *row.figures.get(horizontal)?, *row.figures.get(vertical)?))).collect();
    let most = |of: fn(&(&SweepRow, MeanResult, MeanResult)) -> f64| points.iter().map(of).fold(0.0, f64::max);
    let (wide, high) = (most(|p| p.1.mean + p.1.ci95) * 1.08, most(|p| p.2.mean + p.2.ci95) * 1.08);
    if points.len() < 2 || wide <= 0.0 || high <= 0.0 {
        return String::new();
    }
    let (left, bottom) = (LEFT + 20.0, 300.0);
    let x = |value: f64| left + value / wide * (WIDTH - left - 20.0);
    let y = |value: f64| bottom - value / high * (bottom - 16.0);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} 340\" role=\"img\" aria-label=\"{vertical} by {horizontal}\">\n");
    axes(&mut svg, (left, bottom), (wide, high), (&x, &y));
    for (row, across, up) in &points {
        let (at_x, at_y) = (x(across.mean), y(up.mean));
        let name: Vec<String> = row.point.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
        let name = escape(&name.join(" "));
        let (low, top) = (y((up.mean - up.ci95).max(0.0)), y(up.mean + up.ci95));
        let _ = writeln!(
            svg,
            "<line class=\"bar\" x1=\"{at_x:.1}\" y1=\"{low:.1}\" x2=\"{at_x:.1}\" y2=\"{top:.1}\"/><circle \
             class=\"dot\" cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"4\"><title>{name}</title></circle><text x=\"{:.1}\" \
             y=\"{:.1}\">{name}</text>",
            at_x + 7.0,
            at_y - 5.0
        );
    }
    let _ =
        writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{horizontal}</text>", WIDTH - 20.0, bottom + 34.0);
    format!("<h3>{vertical}</h3>\n{svg}</svg>\n")
}

fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.4}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_becomes_a_page_that_needs_nothing_else() {
        let json = r#"{"seed":3,"hash":"00ff","failures":["a < b"],"figures":{"heal_ms":12.5},"simulated_s":9.0,
            "film":{"at_s":[0.0,1.0,2.0],"believed":[[100,100],[0,100],[-1,50]],"acts":[[1.0,"Crash([0])"]]}}"#;
        let result: ResultFile = serde_json::from_str(json).expect("well formed");
        let page = page(&[("half <split>".to_owned(), result)]);
        assert!(page.contains("half &lt;split&gt;") && page.contains("a &lt; b") && page.contains("crash"));
        assert!(page.contains("class=\"b0\"") && page.contains("class=\"off\"") && page.contains("12.5"));
        assert!(!page.contains("<script") && !page.contains("http"));
    }

    #[test]
    fn ticks_stand_at_numbers_that_people_count_in() {
        for (least, step) in [(0.2, 1.0), (1.5, 2.0), (8.1, 10.0), (21.0, 50.0), (600.0, 1_000.0)] {
            assert_eq!(nice_step(least), step, "{least}");
        }
    }

    #[test]
    fn a_search_becomes_a_plot_with_the_shipped_and_the_chosen_settings_marked() {
        let row = |settings: &str, detect: &str, rest: &str| {
            format!(r#"{{"settings":"{settings}","detect_p99_ms":{detect},"false_per_month":0,{rest}}}"#)
        };
        let shipped =
            row("as shipped", "9000", r#""bytes_per_s":300,"is_front":true,"is_shipped":true,"is_chosen":false"#);
        let chosen =
            row("suspicion=2", "4000", r#""bytes_per_s":500,"is_front":true,"is_shipped":false,"is_chosen":true"#);
        let never = row("x=1", "null", r#""bytes_per_s":1,"is_front":false,"is_shipped":false,"is_chosen":false"#);
        let json = format!(
            r#"{{"wishes":{{"detect_p99_ms":5000,"false_per_month":1,"bytes_per_s":2500}},
            "candidates":[{shipped},{chosen},{never}]}}"#
        );
        let result: ResultFile = serde_json::from_str(&json).expect("well formed");
        let page = page(&[("lan".to_owned(), result)]);
        assert!(page.contains(">shipped</text>") && page.contains(">chosen</text>") && page.contains("class=\"wish\""));
        assert_eq!(page.matches("<circle").count(), 2);
    }

    #[test]
    fn a_sweep_becomes_plots_and_a_table() {
        let json = r#"[{"point":[["nodes","5"]],"figures":{"detect_first_p99_ms":{"mean":9.0,"ci95":1.0,"seeds":3},
            "bytes_per_s_mean":{"mean":200.0,"ci95":2.0,"seeds":3}},"failures":[]},
            {"point":[["nodes","9"]],"figures":{"detect_first_p99_ms":{"mean":4.0,"ci95":1.0,"seeds":3},
            "bytes_per_s_mean":{"mean":300.0,"ci95":2.0,"seeds":3}},"failures":[]}]"#;
        let result: ResultFile = serde_json::from_str(json).expect("well formed");
        let page = page(&[("grid".to_owned(), result)]);
        assert!(page.contains("nodes=9") && page.contains("<circle"));
    }
}
