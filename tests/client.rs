//! The commands that ask an agent, as a person or a script sees them: what they print, what they ask for, and the exit
//! code of each way to fail. The agent is a stand-in that answers as `/v2` is documented, and fails on demand.

#![cfg(feature = "cli")]

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// A question that the stand-in was asked.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    token: Option<String>,
    body: Value,
}

/// Answers by the beginning of the request line, `GET /v2/members`; the last of several goes on being given.
type Answers = Vec<(&'static str, VecDeque<(u16, String)>)>;

struct Agent {
    addr: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

fn answers(all: &[(&'static str, u16, Value)]) -> Answers {
    let mut answers = Answers::new();
    for (line, status, value) in all {
        let one = (*status, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        match answers.iter_mut().find(|(known, _)| known == line) {
            Some((_, queue)) => queue.push_back(one),
            None => answers.push((line, VecDeque::from([one]))),
        }
    }
    answers
}

impl Agent {
    fn new(all: &[(&'static str, u16, Value)]) -> Self {
        Self::with(all, |stream| Some(Box::new(stream)))
    }

    /// Where `open` gives nothing, a connection is held and never answered.
    fn with(
        all: &[(&'static str, u16, Value)],
        open: impl Fn(TcpStream) -> Option<Box<dyn Duplex>> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("it is bound").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (note, mut answers) = (Arc::clone(&asked), answers(all));
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                held.push(stream.try_clone());
                let Some(stream) = open(stream) else { continue };
                held.pop();
                // Whoever goes away in the midst of it is the test's own doing.
                let _ = serve(stream, &note, &mut answers);
            }
        });
        Self { addr, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("nobody panics").clone()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        tidings(&self.addr, arguments).output().expect("it runs")
    }

    /// Its output, which must be all that it did.
    #[track_caller]
    fn shows(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Its last words, with this exit code.
    #[track_caller]
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        stderr
    }
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

fn tidings(addr: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDINGS_") {
            command.env_remove(name);
        }
    }
    command.env("TIDINGS_HTTP_ADDR", addr).args(arguments).stdin(Stdio::null());
    command
}

fn serve(stream: Box<dyn Duplex>, note: &Mutex<Vec<Asked>>, answers: &mut Answers) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (mut length, mut token) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().expect("a length"),
            "authorization" => token = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let line = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    note.lock().expect("nobody panics").push(Asked { line: line.clone(), token, body });
    let path = line.split('?').next().unwrap_or_default();
    let known = answers.iter_mut().find(|(known, _)| *known == path);
    let (status, body, index) = match known {
        None => (404, error("no such path").to_string(), 1),
        Some((_, queue)) => {
            let index = 100 - queue.len();
            let (status, body) =
                if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() }.expect("one at least");
            (status, body, index)
        }
    };
    let stream = reader.get_mut();
    // A stream of events ends with the connection, everything else with its last byte.
    let kind = if body.starts_with("event:") {
        "content-type: text/event-stream".to_owned()
    } else {
        format!("content-type: application/json\r\ncontent-length: {}", body.len())
    };
    write!(
        stream,
        "HTTP/1.1 {status} x\r\n{kind}\r\nx-tidings-index: {index}\r\ndate: Fri, 20 Nov 2026 12:00:00 GMT\r\n\
         connection: close\r\n\r\n{body}"
    )?;
    stream.flush()
}

fn error(message: &str) -> Value {
    json!({ "schema_version": 1, "error": { "code": "forbidden", "message": message } })
}

fn member(name: &str, state: &str) -> Value {
    json!({
        "member": name, "member_id": format!("{name:0>16}"), "addr": "127.0.0.1:7900", "zone": "eu", "state": state,
        "is_self": name == "a", "evidence_ms": 1_200, "generation": "1.0", "software": "0.1.0", "wire": [1, 1],
    })
}

fn members(all: &[Value]) -> Value {
    json!({ "schema_version": 1, "stale": false, "members": all })
}

fn instance(id: &str, weight: u32, is_healthy: bool) -> Value {
    let status = if is_healthy { "passing" } else { "critical" };
    let mut instance = json!({
        "member": "b", "member_id": "b", "member_state": "reachable", "healthy": is_healthy, "evidence_ms": 5,
        "record": {
            "service": "web", "id": id, "address": { "host": "10.0.0.7", "port": 80 }, "weight": weight,
            "status": { "state": status }, "registered_at": 1,
        },
    });
    if !is_healthy {
        instance["out"] = Value::from("critical");
    }
    instance
}

fn web(instances: &[Value]) -> Value {
    json!({ "schema_version": 1, "stale": false, "service": "web", "instances": instances })
}

fn services() -> Value {
    let web = json!({ "service": "web", "instances": 2, "healthy": 1, "tags": ["v1"], "versions": ["1.0"] });
    json!({ "schema_version": 1, "stale": true, "services": [web] })
}

#[test]
fn members_are_a_table_for_people_and_json_or_yaml_for_programs() {
    let agent = Agent::new(&[("GET /v2/members", 200, members(&[member("a", "reachable"), member("b", "down")]))]);
    let table = agent.shows(&["members"]);
    let expected = "MEMBER  STATE      HEARD  ADDRESS         ZONE\na       reachable  self   127.0.0.1:7900  eu\n\
                    b       down       1.2 s  127.0.0.1:7900  eu\n";
    assert_eq!(table, expected);
    assert!(agent.shows(&["members", "-o", "wide"]).starts_with("MEMBER  STATE      HEARD  ADDRESS         ZONE  ID"));
    let json: Value = serde_json::from_str(&agent.shows(&["members", "--output", "json"])).expect("JSON");
    assert_eq!(json["members"][1]["state"], "down");
    assert_eq!(agent.shows(&["members", "-o", "jsonl"]).lines().count(), 2);
    assert!(agent.shows(&["members", "-o", "yaml"]).contains("- addr: 127.0.0.1:7900\n"));
    agent.shows(&["members", "--state", "down"]);
    assert_eq!(agent.asked().last().expect("it was asked").line, "GET /v2/members?state=down");
}

#[test]
fn what_may_be_out_of_date_says_so() {
    let agent = Agent::new(&[("GET /v2/services", 200, services())]);
    let table = agent.shows(&["services"]);
    assert!(table.starts_with("stale: ") && table.contains("web      1 of 2"), "{table}");
}

#[test]
fn a_service_is_checked_by_exit_code_alone() {
    let agent = Agent::new(&[
        ("GET /v2/services/web", 200, web(&[instance("w1", 1, true)])),
        ("GET /v2/services/web", 200, web(&[instance("w1", 1, false), instance("w2", 1, false)])),
        ("GET /v2/services", 200, services()),
    ]);
    assert_eq!(agent.shows(&["get", "web", "--check", "--selector", "weight == 1", "--tag", "v1"]), "");
    assert_eq!(agent.asked()[0].line, "GET /v2/services/web?filter=weight%20%3D%3D%201&tag=v1");
    assert!(agent.fails(4, &["get", "web", "--check"]).contains("2 critical"));
    assert!(agent.shows(&["get", "web"]).contains("w2        critical  10.0.0.7:80"));
    assert!(agent.fails(3, &["get", "wbe"]).contains("did you mean web?"));
    assert!(agent.fails(3, &["get", "payments", "--check"]).contains("tidings services"));
}

#[test]
fn an_agent_that_is_not_there_is_code_5_with_what_to_do() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it is bound");
    let output = tidings(&nobody.to_string(), &["services"]).output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains(&nobody.to_string()) && stderr.contains("TIDINGS_HTTP_ADDR"), "{stderr}");
    let stopped = Agent::new(&[("GET /v2/members", 503, error("the member has stopped"))]);
    assert!(stopped.fails(5, &["members"]).contains("the member has stopped"));
}

#[test]
fn an_agent_that_does_not_answer_in_time_is_code_6() {
    let silent = Agent::with(&[], |_| None);
    assert!(silent.fails(6, &["members", "--timeout", "100ms"]).contains("100ms"));
    let alone = json!({ "schema_version": 1, "addresses": ["10.0.0.9:7900"], "joined": [] });
    let agent = Agent::new(&[("POST /v2/join", 200, alone)]);
    assert!(agent.fails(6, &["join", "10.0.0.9:7900", "--join-timeout", "1s"]).contains("10.0.0.9:7900"));
    assert_eq!(agent.asked()[0].body, json!({ "targets": ["10.0.0.9:7900"], "timeout_ms": 1_000 }));
}

#[test]
fn what_the_agent_refuses_is_code_7_and_what_it_cannot_read_is_code_2() {
    let agent = Agent::new(&[
        ("GET /v2/members", 401, error("no token")),
        ("POST /v2/leave", 403, error("this token may only read")),
        ("POST /v2/members/b/forget", 409, error("b answers")),
        ("GET /v2/services/web", 400, error("the filter ends too early")),
    ]);
    assert!(agent.fails(7, &["members"]).contains("no token; give a token with"));
    assert!(agent.fails(7, &["leave"]).contains("may only read; give a token that may do it with --token-file"));
    let other = "the host \"agent.example\" is not this agent's: without a token, ask by address or localhost";
    let mut refused = error(other);
    refused["error"]["code"] = Value::from("wrong_host");
    let stderr = Agent::new(&[("GET /v2/members", 403, refused)]).fails(7, &["members"]);
    assert!(stderr.contains(other) && !stderr.contains("--token-file"), "no scope would help: {stderr}");
    assert!(agent.fails(7, &["forget", "b"]).contains("b answers"));
    assert!(agent.fails(2, &["get", "web", "--selector", "x =="]).contains("ends too early"));
    assert!(agent.fails(2, &["members", "--api", "nowhere"]).contains("HOST:PORT"));
    assert!(agent.fails(2, &["register", "name=web"]).contains("addr is missing"));
}

#[test]
fn something_that_is_no_agent_is_told_from_one() {
    let other = Agent::new(&[("GET /v2/members", 200, Value::from("<html>hello</html>"))]);
    assert!(other.fails(1, &["members"]).contains("is it a tidings agent"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound").to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let _ = stream.write_all(b"SSH-2.0-x\r\n");
    });
    let output = tidings(&addr, &["members"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_drain_that_was_cut_off_is_code_8_and_names_who_was_silent() {
    let drained = |is_clean: bool| {
        let silent = json!([{ "member": "c", "member_id": "c", "addr": "x", "reason": "silent" }]);
        json!({
            "schema_version": 1, "clean": is_clean, "confirmed": 3, "calls_left": u8::from(!is_clean), "tasks_left": 0,
            "took_ms": 40, "unconfirmed": if is_clean { json!([]) } else { silent },
        })
    };
    let agent = Agent::new(&[("POST /v2/drain", 200, drained(true)), ("POST /v2/drain", 200, drained(false))]);
    assert_eq!(agent.shows(&["drain"]), "drained within 40 ms: 3 members confirmed\n");
    let stderr = agent.fails(8, &["drain", "--drain-timeout", "2s"]);
    assert!(stderr.contains("c (silent)") && stderr.contains("1 calls"), "{stderr}");
    assert_eq!(agent.asked()[1].body, json!({ "timeout_ms": 2_000 }));
}

#[test]
fn what_is_offered_is_asked_for_as_the_agent_wants_it() {
    let done = json!({ "schema_version": 1, "done": "done so" });
    let offer = json!({
        "schema_version": 1,
        "offer": { "record": instance("web@a:80", 3, true)["record"], "checks": [], "external": false, "kept": false },
    });
    let agent = Agent::new(&[
        ("POST /v2/offers", 200, offer.clone()),
        ("DELETE /v2/offers/web%40a%3A80", 200, done.clone()),
        ("PUT /v2/offers/web%40a%3A80/maintenance", 200, offer.clone()),
        ("DELETE /v2/offers/web%40a%3A80/maintenance", 200, offer.clone()),
        ("PUT /v2/maintenance", 200, done.clone()),
        ("PUT /v2/offers/web%40a%3A80/weight", 200, offer.clone()),
        ("POST /v2/offers/web%40a%3A80/drain", 200, done),
        ("GET /v2/offers", 200, json!({ "offers": [offer["offer"]] })),
    ]);
    let check = "http://10.0.0.7/health interval=5s";
    let said = agent.shows(&["register", "name=web,addr=10.0.0.7:80,weight=3", "--check", check]);
    assert!(said.starts_with("offers web@a:80, passing; the agent has no data directory"), "{said}");
    let expected = json!({
        "service": "web", "address": { "host": "10.0.0.7", "port": 80 }, "weight": 3,
        "checks": [{ "kind": "http", "target": "http://10.0.0.7/health", "method": "GET", "interval_ms": 5_000 }],
    });
    assert_eq!(agent.asked()[0].body, expected);
    assert_eq!(agent.shows(&["deregister", "web@a:80"]), "done so\n");
    agent.shows(&["maint", "on", "web@a:80", "--reason", "disk", "--for", "10m"]);
    assert_eq!(agent.asked()[2].body, json!({ "reason": "disk", "for_ms": 600_000 }));
    agent.shows(&["maint", "off", "web@a:80"]);
    agent.shows(&["maint", "on"]);
    agent.shows(&["weight", "web@a:80", "9"]);
    assert_eq!(agent.asked()[5].body, json!({ "weight": 9 }));
    agent.shows(&["drain", "web@a:80"]);
    assert!(agent.shows(&["offers"]).contains("web@a:80  web      passing"));
    assert!(agent.fails(3, &["deregister", "web@a:81"]).contains("did you mean web@a:80?"));
    assert!(agent.fails(2, &["maint", "off", "--reason", "x"]).contains("neither"));
}

#[test]
fn a_token_comes_from_the_environment_or_a_file_and_is_sent_as_a_bearer() {
    let agent = Agent::new(&[("GET /v2/services", 200, services())]);
    tidings(&agent.addr, &["services"]).env("TIDINGS_HTTP_TOKEN", "secret").output().expect("it runs");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "of-a-file\n").expect("it is written");
    agent.shows(&["services", "--token-file", file.path().to_str().expect("text")]);
    let tokens: Vec<_> = agent.asked().into_iter().map(|asked| asked.token).collect();
    assert_eq!(tokens, ["Bearer secret", "Bearer of-a-file"].map(|token| Some(token.to_owned())));
}

#[test]
fn what_a_node_is_told_means_nothing_to_a_command_and_the_other_way_round() {
    let agent = Agent::new(&[("GET /v2/services", 200, services())]);
    // A node's table of tokens is none of a command's, and how a node prints is not how a command does.
    let mut command = tidings(&agent.addr, &["services"]);
    command.env("TIDINGS_OUTPUT", "neither").env("TIDINGS_HTTP_TOKENS", "/no/such/file");
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let mut command = tidings(&agent.addr, &["services"]);
    let output = command.env("TIDINGS_CLIENT_OUTPUT", "json").output().expect("it runs");
    assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok());
    let help = |command: &str| {
        let output = tidings(&agent.addr, &[command, "--help"]).output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        let variables = text.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
        variables.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    let (of_node, of_command) = (help("node"), help("services"));
    assert!(of_node.len() > 20 && of_command.len() > 3, "{of_node:?} {of_command:?}");
    let both: Vec<_> = of_node.intersection(&of_command).collect();
    assert_eq!(both, ["TIDINGS_LOG_FORMAT", "TIDINGS_LOG_LEVEL"]);
}

#[test]
fn https_trusts_the_authority_that_is_named_and_no_other() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = certificate.self_signed(&key).expect("it signs itself");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("there are versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
        )
        .expect("they fit");
    let config = Arc::new(config);
    let agent = Agent::with(&[("GET /v2/services", 200, services())], move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("a connection");
        Some(Box::new(rustls::StreamOwned::new(connection, stream)))
    });
    let ca = tempfile::NamedTempFile::new().expect("a temporary file");
    let pem = data_encoding::BASE64.encode(certificate.der());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n");
    std::fs::write(ca.path(), pem).expect("it is written");
    let api = format!("https://localhost:{}", agent.addr.rsplit(':').next().expect("a port"));
    let ca = ca.path().to_str().expect("text");
    assert!(agent.shows(&["services", "--api", &api, "--ca", ca]).contains("web"));
    assert!(agent.fails(5, &["services", "--api", &api]).contains("--ca"));
    // The certificate is for another name.
    let api = api.replace("localhost", "127.0.0.1");
    assert!(agent.fails(5, &["services", "--api", &api, "--ca", ca]).contains("no TLS"));
}

/// A command that goes on until it is stopped.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(agent: &Agent, arguments: &[&str]) -> Self {
        let mut child = tidings(&agent.addr, arguments).stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> Value {
        let line = self.lines.next().expect("a line").expect("text");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watch_prints_what_comes_changes_and_goes() {
    let agent = Agent::new(&[
        ("GET /v2/services/web", 404, error("unknown")),
        ("GET /v2/services/web", 200, web(&[instance("w1", 1, true)])),
        ("GET /v2/services/web", 200, web(&[instance("w1", 2, true), instance("w2", 1, true)])),
        ("GET /v2/services/web", 200, web(&[instance("w2", 1, true)])),
        ("GET /v2/services", 200, services()),
    ]);
    let mut watch = Running::start(&agent, &["watch", "web", "-o", "jsonl"]);
    let told: Vec<_> = (0..4)
        .map(|_| watch.line())
        .map(|line| (line["event"].clone(), line["instance"]["record"]["id"].clone()))
        .collect();
    let expected = [("added", "w1"), ("changed", "w1"), ("added", "w2"), ("removed", "w1")];
    assert_eq!(told, expected.map(|(event, id)| (json!(event), json!(id))));
    let asked = agent.asked();
    assert!(asked.iter().any(|asked| asked.line.starts_with("GET /v2/services/web?index=")), "{asked:?}");
}

#[cfg(unix)]
#[test]
fn a_watch_ends_by_the_signal_that_interrupts_it() {
    use std::os::unix::process::ExitStatusExt as _;

    let agent = Agent::new(&[("GET /v2/members", 200, members(&[member("a", "reachable")]))]);
    let mut watch = Running::start(&agent, &["members", "--watch", "-o", "jsonl"]);
    assert_eq!(watch.line()["member"], "a");
    let pid = rustix::process::Pid::from_child(&watch.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    // A shell shows this as 130.
    assert_eq!(watch.child.wait().expect("it ends").signal(), Some(2));
}

#[test]
fn events_are_printed_one_by_one_until_the_agent_ends() {
    let stream = "event: member_down\ndata: {\"ts\":\"t\",\"event\":\"member_down\",\"member\":{\"member\":\"b\"}}\n\n\
                  : still here\n\nevent: lagged\ndata: {\"ts\":\"t\",\"event\":\"lagged\",\"lost\":7}\n\n";
    let agent = Agent::new(&[("GET /v2/events", 200, Value::from(stream))]);
    let output = agent.run(&["events", "--event", "member_down", "--service", "a b"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout, "t member_down         b\nt lagged              lost=7\n");
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(agent.asked()[0].line, "GET /v2/events?service=a%20b&event=member_down");
}

#[test]
fn an_event_without_end_is_not_waited_for() {
    let endless = format!("event: member_up\ndata: {{\"x\": \"{}\"}}\n\n", "x".repeat(2 * 1024 * 1024));
    let agent = Agent::new(&[("GET /v2/events", 200, Value::from(endless))]);
    let stderr = agent.fails(1, &["events"]);
    assert!(stderr.contains("more than 1048576 bytes"), "{stderr}");
}

#[test]
fn explain_rtt_and_stats_are_for_people_first() {
    let story = json!([{ "ago_ms": 2_000, "what": "did not answer" }]);
    let explanation = json!({
        "schema_version": 1, "member": member("b", "unreachable"), "finding": "silent", "turn": 1,
        "by": "000000000000000c", "by_member": "c", "witnesses": 3, "witnessed_by": ["a", "d", "e"], "rtt_us": 350,
        "story": story,
    });
    let mut by_one = explanation.clone();
    by_one["witnesses"] = json!(1);
    by_one["witnessed_by"] = json!(["a"]);
    let rtts = json!({ "schema_version": 1, "from": "a", "members": [
        { "member": "b", "member_id": "b", "state": "reachable", "rtt_us": 350, "deviation_us": 20 },
        { "member": "c", "member_id": "c", "state": "reachable" },
    ] });
    let agent = Agent::new(&[
        ("GET /v2/members/b/explain", 200, explanation),
        ("GET /v2/members/one/explain", 200, by_one),
        ("GET /v2/members", 200, members(&[member("beta", "reachable")])),
        ("GET /v2/rtt", 200, rtts),
        (
            "GET /v2/stats",
            200,
            json!({ "schema_version": 1, "stats": { "asks": 2, "lost": 0 }, "http": { "http_open": 1 } }),
        ),
    ]);
    let text = agent.shows(&["explain", "one"]);
    assert!(text.contains("verdict silent by c, 1 witness (a)"), "{text}");
    let text = agent.shows(&["explain", "b"]);
    let line = "b at 127.0.0.1:7900 is unreachable, last heard 1.2 s ago; verdict silent by c, 3 witnesses (a, d, e)";
    assert!(text.starts_with(line), "{text}");
    assert!(text.ends_with("2.0 s  did not answer\n"), "{text}");
    assert!(agent.fails(3, &["explain", "bet"]).contains("did you mean beta?"));
    let text = agent.shows(&["rtt"]);
    assert!(text.contains("0.35 ms") && text.contains("not probed from here"), "{text}");
    assert_eq!(agent.shows(&["stats"]), "NAME       VALUE\nasks       2\nhttp_open  1\n");
    assert_eq!(agent.shows(&["stats", "lost", "--all"]), "NAME  VALUE\nlost  0\n");
}

#[test]
fn two_agents_are_compared_and_differ_with_code_1() {
    let view = |weight| {
        json!({
            "schema_version": 1, "stale": false, "fingerprint": "x", "members": [member("a", "reachable")],
            "instances": [instance("w1", weight, true)],
        })
    };
    let (a, b) = (Agent::new(&[("GET /v2/view", 200, view(1))]), Agent::new(&[("GET /v2/view", 200, view(2))]));
    assert_eq!(a.shows(&["diff", &a.addr, &a.addr]), "both know the same\n");
    let output = a.run(&["diff", &a.addr, &b.addr]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("instance  w1    record.weight  1  2"));
}

#[test]
fn keys_are_shown_without_secrets_and_added_from_a_file_only() {
    let key = json!({ "id": 7, "fingerprint": "00000000000000ab", "in_use": true });
    let lacking = json!({ "member": "b", "member_id": "b", "addr": "x", "keys": [] });
    let keys = json!({ "schema_version": 1, "keys": [key], "members": [lacking] });
    let agent = Agent::new(&[
        ("GET /v2/keys", 200, keys.clone()),
        ("POST /v2/keys", 200, keys.clone()),
        ("POST /v2/keys/7/use", 200, keys.clone()),
        ("DELETE /v2/keys/7", 200, keys),
    ]);
    let text = agent.shows(&["keys"]);
    assert!(text.contains("(this agent)  7    yes    00000000000000ab"), "{text}");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "tdk1_x\n").expect("it is written");
    agent.shows(&["keys", "add", "--key-file", file.path().to_str().expect("text")]);
    assert_eq!(agent.asked()[1].body, json!({ "key": "tdk1_x" }));
    agent.shows(&["keys", "use", "7"]);
    agent.shows(&["keys", "remove", "7"]);
    assert!(agent.fails(2, &["keys", "add"]).contains("TIDINGS_KEY"));
    assert!(agent.fails(2, &["keys", "add", "tdk1_x"]).contains("unexpected"), "a secret is no argument");
}

/// An agent with everything that the doctor looks at.
fn patient(is_well: bool) -> Agent {
    let (state, healthy) = if is_well { ("reachable", 1) } else { ("unreachable", 0) };
    let agent = json!({
        "schema_version": 1, "cluster": "demo", "member": member("a", "reachable"), "status": "ready",
        "isolated": false, "insecure": true, "draining": false, "version": "0.1.0", "uptime_ms": 5, "datacenter": "dc1",
    });
    let web = json!({ "service": "web", "instances": 1, "healthy": healthy, "tags": [], "versions": [] });
    Agent::new(&[
        ("GET /livez", 200, Value::from("ok")),
        ("GET /readyz", 200, Value::from("ok")),
        ("GET /v2/agent", 200, agent),
        ("GET /v2/members", 200, members(&[member("a", "reachable"), member("b", state)])),
        ("GET /v2/members/000000000000000b/explain", 200, json!({ "story": [{ "ago_ms": 1, "what": "silence" }] })),
        ("GET /v2/agreement", 200, json!({ "members": 2, "agreeing": 2, "share": 1.0, "fingerprint": "x" })),
        ("GET /v2/services", 200, json!({ "schema_version": 1, "stale": false, "services": [web] })),
        ("GET /v2/rtt", 200, json!({ "from": "a", "members": [] })),
        (
            "GET /v2/stats",
            200,
            json!({ "stats": { "probes_answered_permille": 1_000, "driver_stalls": 0 }, "http": {} }),
        ),
        ("GET /v2/keys", 403, error("this token may only read")),
    ])
}

#[test]
fn the_doctor_says_what_is_wrong_and_what_to_do_about_it() {
    let well = patient(true).shows(&["doctor"]);
    assert!(well.contains("ok       members") && well.contains("skipped  keys"), "{well}");
    let output = patient(false).run(&["doctor", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    let wrong: Vec<_> = findings.iter().filter(|finding| finding["result"] == "wrong").collect();
    let checks: Vec<_> = wrong.iter().map(|finding| finding["check"].as_str().unwrap_or_default()).collect();
    assert_eq!(checks, ["members", "services"]);
    assert!(wrong.iter().all(|finding| finding["next"].as_str().is_some_and(|next| next.starts_with("tidings "))));
}

/// An agent whose member has stopped: it still tells the last that it knew.
fn stopped() -> Agent {
    let down = || error("the member has stopped: it has left");
    Agent::new(&[
        ("GET /livez", 503, Value::from("stopped: it has left\n")),
        ("GET /readyz", 503, Value::from("the agent's member has stopped: it has left\n")),
        ("GET /v2/agent", 503, down()),
        ("GET /v2/members", 200, members(&[member("b", "unreachable")])),
        ("GET /v2/agreement", 503, down()),
        ("GET /v2/services", 200, services()),
        ("GET /v2/rtt", 503, down()),
        ("GET /v2/stats", 503, down()),
        ("GET /v2/keys", 503, down()),
    ])
}

#[test]
fn of_an_agent_whose_member_has_stopped_is_told_what_can_be_had() {
    let output = stopped().run(&["doctor", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    let of = |check: &str| {
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("nothing of {check}: {findings:?}"))
    };
    let text = |finding: &Value| finding["found"].as_str().expect("text").to_owned();
    assert!(of("alive")["result"] == "wrong" && text(of("alive")).contains("it has left"));
    assert!(of("members")["result"] == "wrong" && text(of("members")).contains('b'));
    for check in ["member", "agreement", "round trips", "counters", "keys"] {
        assert!(of(check)["result"] == "skipped" && text(of(check)).contains("has stopped"), "{check}");
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("bundle.json");
    let path = path.to_str().expect("text");
    assert!(stopped().shows(&["debug", "--file", path]).contains("wrote"));
    let bundle: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("it was written")).expect("JSON");
    assert_eq!(bundle["members"]["members"][0]["member"], "b");
    assert!(bundle["agent"]["failed"].as_str().is_some_and(|why| why.contains("has stopped")));
    assert!(bundle["doctor"].as_array().is_some_and(|findings| findings.len() > 5));
    // One that lets nobody in is another matter.
    let closed = Agent::new(&[("GET /livez", 200, Value::from("alive")), ("GET /v2/agent", 401, error("no token"))]);
    assert!(closed.fails(7, &["doctor"]).contains("no token"));
    assert!(closed.fails(7, &["debug", "--file", path]).contains("no token"));
}

#[test]
fn a_bundle_holds_what_could_be_had_and_says_what_could_not() {
    let agent = patient(false);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("bundle.json");
    let path = path.to_str().expect("text");
    assert!(agent.shows(&["debug", "--file", path]).contains("wrote"));
    let bundle: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("it was written")).expect("JSON");
    assert_eq!(bundle["members"]["members"][1]["state"], "unreachable");
    assert_eq!(bundle["stories"][0]["story"][0]["what"], "silence");
    assert!(bundle["keys"]["failed"].as_str().is_some_and(|why| why.contains("may only read")));
    assert!(bundle["checks"]["failed"].is_string());
    assert!(agent.fails(1, &["debug", "--file", path]).contains("exists"), "nothing is overwritten");
}
