//! `tidings top`: what an agent knows, on the whole terminal, as it changes. Drawing is pure; keys come from a thread.

use std::io::IsTerminal as _;
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Row, Table, TableState};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::exit::{Exit, Failure};
use super::super::parse_span;
use super::super::table::{self, printable};
use super::Common;
use super::http::Api;
use super::read::{INSTANCES, MEMBERS, SERVICES};
use super::show::{Column, rows, text};

/// Keys that wait to be looked at; a thread of its own reads them.
const KEYS_WAITING_MAX: usize = 64;

/// Look at the cluster on the whole terminal, as it changes.
///
/// Keys: Tab goes to the next list, arrows and page keys move in it, p pauses, q ends.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    common: Common,

    /// How often the agent is asked; a number with ms, s or m
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_span)]
    every: Duration,
}

/// What is on the screen.
#[derive(Default)]
struct Board {
    agent: Value,
    members: Value,
    services: Value,
    instances: Value,
    /// Why the agent could not be asked last.
    trouble: Option<String>,
    is_paused: bool,
    /// Which list the keys move in.
    list: usize,
    places: [TableState; LISTS.len()],
}

/// A list on the screen.
struct List {
    title: &'static str,
    path: &'static str,
    columns: &'static [Column],
}

const LISTS: [List; 3] = [
    List { title: "members", path: "/members", columns: MEMBERS },
    List { title: "services", path: "/services", columns: SERVICES },
    List { title: "instances", path: "/instances", columns: INSTANCES },
];

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        let next = "tidings members --watch --output jsonl is for programs";
        return Err(Failure::new(Exit::Usage, format!("top needs a terminal; {next}")));
    }
    let api = Api::of(&args.common.api)?;
    let mut board = Board::default();
    // What is wrong at the beginning is told on a screen that stays.
    board.take(ask(api.clone()).await?);
    let mut asking: Option<JoinHandle<Result<Answers, Failure>>> = None;
    let mut keys = keys();
    let mut terminal = ratatui::init();
    let result = async {
        let mut tick = tokio::time::interval(args.every.max(Duration::from_millis(50)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            terminal.draw(|frame| board.draw(frame))?;
            tokio::select! {
                key = keys.recv() => match key {
                    Some(event) if board.heed(&event) => {}
                    Some(_) | None => return Ok(()),
                },
                // Beside the keys: an agent that hangs must not keep anybody here.
                _ = tick.tick(), if !board.is_paused && asking.is_none() => {
                    asking = Some(tokio::spawn(ask(api.clone())));
                }
                asked = async { asking.as_mut().expect("asked only while somebody is").await }, if asking.is_some() => {
                    asking = None;
                    match asked {
                        Ok(Ok(answers)) => board.take(answers),
                        Ok(Err(failure)) => board.trouble = Some(failure.to_string()),
                        Err(bug) => board.trouble = Some(bug.to_string()),
                    }
                }
            }
        }
    };
    let result: std::io::Result<()> = result.await;
    ratatui::restore();
    result.map_err(|error| Failure::new(Exit::Failed, format!("the terminal: {error}")))
}

/// The agent, its members, services and instances.
type Answers = [Value; 4];

async fn ask(api: Api) -> Result<Answers, Failure> {
    let (agent, members, services, instances) =
        tokio::join!(api.get("/v2/agent"), api.get("/v2/members"), api.get("/v2/services"), api.get("/v2/instances"));
    Ok([agent?, members?, services?, instances?])
}

/// Reading keys blocks, so a thread does it; it ends with the process, or when nobody wants them any more.
fn keys() -> mpsc::Receiver<Event> {
    let (tell, told) = mpsc::channel(KEYS_WAITING_MAX);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if tell.blocking_send(event).is_err() {
                return;
            }
        }
    });
    told
}

impl Board {
    fn take(&mut self, answers: Answers) {
        [self.agent, self.members, self.services, self.instances] = answers;
        self.trouble = None;
    }

    /// Does what a key says; false ends.
    fn heed(&mut self, event: &Event) -> bool {
        let Event::Key(key) = event else { return true };
        if key.kind == KeyEventKind::Release {
            return true;
        }
        let place = &mut self.places[self.list];
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Tab | KeyCode::Right => self.list = (self.list + 1) % LISTS.len(),
            KeyCode::BackTab | KeyCode::Left => self.list = (self.list + LISTS.len() - 1) % LISTS.len(),
            KeyCode::Down | KeyCode::Char('j') => place.select_next(),
            KeyCode::Up | KeyCode::Char('k') => place.select_previous(),
            KeyCode::PageDown => place.scroll_down_by(10),
            KeyCode::PageUp => place.scroll_up_by(10),
            KeyCode::Home => place.select_first(),
            KeyCode::End => place.select_last(),
            _ => {}
        }
        true
    }

    fn whole(&self, list: usize) -> &Value {
        [&self.members, &self.services, &self.instances][list]
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let most = |list: usize| u16::try_from(rows(self.whole(list), LISTS[list].path).len()).unwrap_or(u16::MAX);
        // Members and services take what they need, up to a third each; instances have the rest.
        let third = frame.area().height / 3;
        let [head, members, services, instances, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(most(0).saturating_add(3).min(third)),
            Constraint::Length(most(1).saturating_add(3).min(third)),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.headline(), head);
        for (list, area) in [members, services, instances].into_iter().enumerate() {
            self.draw_list(frame, list, area);
        }
        frame.render_widget(self.footline(), foot);
    }

    fn headline(&self) -> Line<'static> {
        let count = |path: &str, field: &str, wanted: &Value| {
            rows(self.whole(usize::from(path == "/instances") * 2), path)
                .iter()
                .filter(|row| row[field] == *wanted)
                .count()
        };
        let reachable = count("/members", "state", &Value::from("reachable"));
        let healthy = count("/instances", "healthy", &Value::from(true));
        let (members, instances) = (rows(&self.members, "/members").len(), rows(&self.instances, "/instances").len());
        let line = format!(
            "cluster {} | {} at {} | {reachable} of {members} members reachable, \
             {healthy} of {instances} instances healthy",
            text(&self.agent, "/cluster"),
            text(&self.agent, "/member/member"),
            text(&self.agent, "/member/addr"),
        );
        let mut line = Line::from(printable(&line)).bold();
        for (is, word) in [
            (self.agent["status"] != "ready", format!(" | {}", text(&self.agent, "/status"))),
            (self.agent["isolated"] == true, " | ISOLATED".to_owned()),
            (self.agent["draining"] == true, " | draining".to_owned()),
            (self.agent["insecure"] == true, " | INSECURE: no key needed".to_owned()),
        ] {
            if is {
                line.push_span(printable(&word).yellow());
            }
        }
        line
    }

    fn footline(&self) -> Line<'static> {
        match &self.trouble {
            Some(trouble) => Line::from(printable(trouble)).red(),
            None if self.is_paused => Line::from("paused; p goes on").yellow(),
            None => Line::from("Tab next list | arrows move | p pause | q quit").dim(),
        }
    }

    fn draw_list(&mut self, frame: &mut Frame<'_>, list: usize, area: Rect) {
        let List { title, path, columns } = &LISTS[list];
        let columns: Vec<&Column> = columns.iter().filter(|column| !column.is_wide).collect();
        let all = rows(self.whole(list), path);
        let cells: Vec<Vec<table::Cell>> =
            all.iter().map(|row| columns.iter().map(|column| (column.cell)(row)).collect()).collect();
        let widths = columns.iter().enumerate().map(|(index, column)| {
            let widest = cells.iter().map(|row| row[index].0.chars().count()).max().unwrap_or_default();
            Constraint::Length(u16::try_from(widest.max(column.head.len())).unwrap_or(u16::MAX))
        });
        let body = cells.iter().map(|row| Row::new(row.iter().map(|(text, style)| cell(text, style))));
        let head = Row::new(columns.iter().map(|column| column.head)).dim();
        let is_here = list == self.list;
        let block = Block::bordered().title(format!(" {} {title} ", all.len()));
        let block = block.border_style(if is_here { Style::new().fg(Color::Cyan) } else { Style::new().dim() });
        let mark = if is_here { Style::new().reversed() } else { Style::new() };
        let table = Table::new(body, widths.collect::<Vec<_>>()).header(head).block(block).row_highlight_style(mark);
        let table = table.column_spacing(2);
        frame.render_stateful_widget(table, area, &mut self.places[list]);
    }
}

/// A cell in the colour that it has in a table of lines.
fn cell(text: &str, style: &str) -> Cell<'static> {
    let style = match style {
        table::GREEN => Style::new().fg(Color::Green),
        table::YELLOW => Style::new().fg(Color::Yellow),
        table::RED => Style::new().fg(Color::Red),
        table::BOLD => Style::new().bold(),
        table::DIM => Style::new().dim(),
        _ => Style::new(),
    };
    Cell::new(printable(text)).style(style)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyEvent;
    use serde_json::json;

    use super::*;

    fn board() -> Board {
        let member = |name: &str, state: &str| json!({ "member": name, "state": state, "addr": "10.0.0.1:7900" });
        let record = json!({ "id": "w\u{1b}1", "address": { "host": "10.0.0.7", "port": 80 }, "weight": 1 });
        Board {
            agent: json!({ "cluster": "demo", "status": "ready", "insecure": true, "member": { "member": "a" } }),
            members: json!({ "members": [member("a", "reachable"), member("b", "down")] }),
            services: json!({ "services": [{ "service": "web", "healthy": 1, "instances": 1 }] }),
            instances: json!({ "instances": [{ "member": "b", "healthy": true, "record": record }] }),
            ..Board::default()
        }
    }

    fn drawn(board: &mut Board, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| board.draw(frame)).expect("it is drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_shows_members_services_and_instances() {
        let text = drawn(&mut board(), 120, 30);
        for part in
            ["cluster demo", "1 of 2 members reachable, 1 of 1 instances healthy", "INSECURE", "2 members", "1 of 1"]
        {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(text.contains("w\u{fffd}1") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn no_terminal_is_too_small_to_draw_on() {
        for (width, height) in [(1, 1), (3, 2), (10, 5), (200, 3)] {
            drawn(&mut board(), width, height);
        }
    }

    #[test]
    fn keys_move_pause_and_end() {
        let mut board = board();
        let key = |code| Event::Key(KeyEvent::from(code));
        assert!(
            board.heed(&key(KeyCode::Tab)) && board.heed(&key(KeyCode::Down)) && board.heed(&key(KeyCode::Char('p')))
        );
        assert_eq!((board.list, board.places[1].selected(), board.is_paused), (1, Some(0), true));
        assert!(drawn(&mut board, 80, 20).contains("paused"));
        board.trouble = Some("no agent answers".to_owned());
        assert!(drawn(&mut board, 80, 20).contains("no agent answers"));
        assert!(!board.heed(&key(KeyCode::Char('q'))));
    }
}
