//! `tidings template` beside a real agent: what it writes, when it runs a command, and what it leaves alone.
#![cfg(unix)]

mod process;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use process::{LINES_MAX, PATIENCE, Process, free, tidings};

impl Process {
    /// The next line that holds this.
    #[track_caller]
    fn says(&self, what: &str) -> String {
        for _ in 0..LINES_MAX {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it never said {what:?}"));
            if line.contains(what) {
                return line;
            }
        }
        panic!("it talks too much, and never said {what:?}");
    }
}

/// Both of its outputs are read.
fn start(mut command: Command) -> Process {
    command.stderr(Stdio::piped());
    Process::start(command)
}

/// An agent, and where it is asked.
fn agent(http: &str) -> Process {
    let fixed = ["node", "--name", "a", "--cluster", "t", "--bind", "127.0.0.1:0", "--output", "jsonl"];
    let mut command = tidings(&fixed);
    command.args(["--http", http]);
    let agent = start(command);
    agent.says("\"event\":\"ready\"");
    agent
}

#[track_caller]
fn ask(http: &str, arguments: &[&str]) {
    let output = tidings(arguments).env("TIDINGS_HTTP_ADDR", http).output().expect("it runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn offer(http: &str, id: &str, more: &str) {
    ask(http, &["register", &format!("name=web,id={id},addr=127.0.0.1:80{more}")]);
}

/// A folder with a template, what is made of it, and a file with a line for each run of the command.
struct Folder {
    dir: tempfile::TempDir,
    http: String,
}

impl Folder {
    fn new(template: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("in.j2"), template).expect("it can be written");
        Self { dir, http: free() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spec(&self) -> String {
        let [file, out, runs] = ["in.j2", "out", "runs"].map(|name| self.path(name).display().to_string());
        format!("{file}:{out}:sh -c 'cat {out} >>{runs}'")
    }

    fn start(&self, more: &[&str]) -> Process {
        let mut command = tidings(&["template", &self.spec()]);
        command.env("TIDINGS_HTTP_ADDR", &self.http).args(more);
        start(command)
    }

    fn run(&self, more: &[&str]) -> Output {
        let mut command = tidings(&["template", &self.spec()]);
        command.env("TIDINGS_HTTP_ADDR", &self.http).args(more).output().expect("it runs")
    }

    fn text(&self, name: &str) -> String {
        read(&self.path(name))
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

const LIST: &str = "{% for i in instances('web') %}{{ i.id }} {% endfor %};\n";

#[test]
fn a_file_is_made_at_every_change_and_the_command_runs_once_for_each() {
    let folder = Folder::new(LIST);
    let _agent = agent(&folder.http);
    let template = folder.start(&[]);
    template.says("ran sh");
    assert_eq!(folder.text("out"), ";\n");
    offer(&folder.http, "w1", "");
    template.says("ran sh");
    assert_eq!(folder.text("out"), "w1 ;\n");
    // A change that the template does not show changes no file. What comes after it is made later, so it was looked at.
    offer(&folder.http, "w1", ",meta.x=1");
    ask(&folder.http, &["register", "name=db,addr=127.0.0.1:5432"]);
    offer(&folder.http, "w2", "");
    template.says("ran sh");
    assert_eq!(folder.text("out"), "w1 w2 ;\n");
    ask(&folder.http, &["maint", "on", "w1"]);
    template.says("ran sh");
    assert_eq!(folder.text("out"), "w2 ;\n");
    assert_eq!(folder.text("runs"), ";\nw1 ;\nw1 w2 ;\nw2 ;\n", "each once");
}

#[test]
fn without_an_agent_the_file_stays_and_goes_on_when_it_is_back() {
    let folder = Folder::new(LIST);
    let first = agent(&folder.http);
    offer(&folder.http, "w1", "");
    let template = folder.start(&[]);
    template.says("ran sh");
    drop(first);
    // The stream breaks, and whoever asks anew hears of it.
    template.signal("HUP");
    template.says("the files stay as they are");
    assert_eq!(folder.text("out"), "w1 ;\n");
    let _second = agent(&folder.http);
    offer(&folder.http, "w2", "");
    template.says("ran sh");
    while folder.text("out") != "w2 ;\n" {
        template.says("ran sh");
    }
}

#[test]
fn a_template_that_becomes_wrong_leaves_the_file_and_names_the_line() {
    let folder = Folder::new(LIST);
    let _agent = agent(&folder.http);
    let template = folder.start(&[]);
    template.says("ran sh");
    std::fs::write(folder.path("in.j2"), "one\n{{ nothing }}\n").expect("it can be written");
    template.signal("HUP");
    let line = template.says("in.j2:2");
    assert!(line.contains("stays as it is"), "{line}");
    assert_eq!(folder.text("out"), ";\n");
    std::fs::write(folder.path("in.j2"), "mended\n").expect("it can be written");
    template.signal("HUP");
    template.says("ran sh");
    assert_eq!(folder.text("out"), "mended\n");
}

#[test]
fn a_command_that_fails_is_run_again_without_another_change() {
    let folder = Folder::new(LIST);
    let _agent = agent(&folder.http);
    let mark = folder.path("mark").display().to_string();
    let [file, out] = ["in.j2", "out"].map(|name| folder.path(name).display().to_string());
    let script = format!("test -e {mark} || {{ touch {mark}; echo not yet >&2; exit 3; }}");
    let mut command = tidings(&["template", &format!("{file}:{out}:sh -c '{script}'")]);
    command.env("TIDINGS_HTTP_ADDR", &folder.http);
    let template = start(command);
    let why = template.says("exit status: 3");
    assert!(why.contains("not yet") && why.contains("next try in 1s"), "{why}");
    template.says("ran sh");
}

#[test]
fn once_makes_it_once_and_dry_makes_nothing() {
    let folder = Folder::new(LIST);
    let nobody = folder.run(&["--once", "--within", "1ms"]);
    assert_eq!(nobody.status.code(), Some(5), "{}", String::from_utf8_lossy(&nobody.stderr));
    let _agent = agent(&folder.http);
    offer(&folder.http, "w1", "");
    let dry = folder.run(&["--dry"]);
    assert_eq!((dry.status.code(), String::from_utf8_lossy(&dry.stdout).as_ref()), (Some(0), "w1 ;\n"));
    assert!(!folder.path("out").exists());
    for _ in 0..2 {
        assert_eq!(folder.run(&["--once"]).status.code(), Some(0));
    }
    assert_eq!(folder.text("runs"), "w1 ;\n", "the second time nothing is another");
    std::fs::write(folder.path("in.j2"), "{{ fail('no') }}").expect("it can be written");
    let failed = folder.run(&["--once"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("in.j2:1"));
    assert_eq!(folder.text("out"), "w1 ;\n");
}

#[test]
fn the_shipped_templates_can_be_made() {
    let http = free();
    let _agent = agent(&http);
    offer(&http, "w1", ",weight=5");
    ask(&http, &["register", "name=an odd; name,addr=db.example:5432"]);
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/templates");
    let mut made = Vec::new();
    for name in ["nginx.conf.j2", "haproxy.cfg.j2", "Caddyfile.j2", "hosts.j2"] {
        let spec = format!("{}:unused", all.join(name).display());
        let output = tidings(&["template", &spec, "--dry"]).env("TIDINGS_HTTP_ADDR", &http).output().expect("it runs");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        made.push(String::from_utf8(output.stdout).expect("text"));
    }
    assert!(made[0].contains("upstream web {\n    server 127.0.0.1:80 weight=5;\n}"), "{}", made[0]);
    assert!(made[0].contains("upstream an_odd__name_"), "{}", made[0]);
    assert!(made[1].contains("    server w1 127.0.0.1:80 weight 5 check inter 1s\n"), "{}", made[1]);
    assert!(made[2].contains("reverse_proxy 127.0.0.1:80 {\n"), "{}", made[2]);
    assert!(made[3].contains("127.0.0.1 a.node.tidings a\n"), "{}", made[3]);
}

#[test]
fn what_is_wrong_from_the_start_ends_it_with_a_reason() {
    let folder = Folder::new("{% if %}");
    let wrong = folder.run(&[]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("in.j2:1"));
    let again = Folder::new(LIST);
    let twice = again.run(&[&again.spec()]);
    assert_eq!(twice.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("would be made of"));
}
