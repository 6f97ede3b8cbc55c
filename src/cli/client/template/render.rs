//! Bytes from a template and what there is to see. Knows nothing of agents, and of files only the templates.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Component, Path};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, context};
use xxhash_rust::xxh3::xxh3_64;

use super::scene::{Instance, Scene};

/// Bytes of a template, and of each that it includes.
const TEMPLATE_BYTES_MAX: u64 = 1024 * 1024;

/// Bytes of what is made of it.
const RENDERED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Steps of one rendering; a line of a loop takes some ten.
const STEPS_MAX: u64 = 50_000_000;

/// Why nothing was made of a template: the file, the line, and what is wrong there.
#[derive(Debug)]
pub(super) struct RenderError(String);

impl fmt::Display for RenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RenderError {
    fn of(path: &Path, error: &Error) -> Self {
        // What another one caused stands where that did.
        let mut told = error;
        while let Some(cause) = std::error::Error::source(told).and_then(|cause| cause.downcast_ref::<Error>()) {
            told = cause;
        }
        let file = match told.name() {
            None | Some(MAIN) => path.to_owned(),
            Some(name) => path.with_file_name(name),
        };
        let line = told.line().map(|line| format!(":{line}")).unwrap_or_default();
        let detail = told.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
        let hint = match told.kind() {
            ErrorKind::UndefinedError => "; | default('') allows it",
            ErrorKind::OutOfFuel => "; does a loop not end?",
            _ => "",
        };
        Self(format!("{}{line}: {}{detail}{hint}", file.display(), told.kind()))
    }
}

/// Whether the template can be read.
pub(super) fn check(path: &Path) -> Result<(), RenderError> {
    prepared(path, &Arc::new(Scene::default()))?.get_template(MAIN).map_err(|error| RenderError::of(path, &error))?;
    Ok(())
}

/// What the template makes of it. Equal templates and scenes give equal bytes.
pub(super) fn render(path: &Path, scene: &Arc<Scene>) -> Result<Vec<u8>, RenderError> {
    let environment = prepared(path, scene)?;
    let template = environment.get_template(MAIN).map_err(|error| RenderError::of(path, &error))?;
    let mut rendered = Bounded(Vec::new());
    let seen = context! {
        cluster => scene.cluster.as_str(),
        datacenter => scene.datacenter.as_str(),
        agent => Value::from(Serde(&scene.agent)),
    };
    let ended = template.render_captured_to(seen, &mut rendered).map(drop);
    match ended {
        Ok(()) => Ok(rendered.0),
        Err(error) if error.kind() == ErrorKind::WriteFailure => {
            Err(RenderError(format!("{}: it makes more than {RENDERED_BYTES_MAX} bytes", path.display())))
        }
        Err(error) => Err(RenderError::of(path, &error)),
    }
}

/// The name of the template itself; those that it includes have their files' names.
const MAIN: &str = "<template>";

fn prepared(path: &Path, scene: &Arc<Scene>) -> Result<Environment<'static>, RenderError> {
    let source = read(path).map_err(|error| RenderError(format!("{}: {error}", path.display())))?;
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let mut syntax = SyntaxConfig::builder();
    syntax.keep_trailing_newline(true).trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build().expect("the usual delimiters are valid"));
    environment.set_fuel(Some(STEPS_MAX));
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    environment.set_loader(move |name| include(&folder, name));
    add_words(&mut environment, scene);
    environment.add_template_owned(MAIN, source).map_err(|error| RenderError::of(path, &error))?;
    Ok(environment)
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(TEMPLATE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > TEMPLATE_BYTES_MAX {
        return Err(std::io::Error::other(format!("longer than {TEMPLATE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// A template beside the first, or below it.
fn include(folder: &Path, name: &str) -> Result<Option<String>, Error> {
    let is_below = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if !is_below {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("{name:?} does not lie below the template's folder"),
        ));
    }
    match read(&folder.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::new(ErrorKind::InvalidOperation, format!("{name:?}: {error}"))),
    }
}

fn add_words(environment: &mut Environment<'static>, scene: &Arc<Scene>) {
    let of = Arc::clone(scene);
    environment.add_function("instances", move |service: Option<String>, more: Kwargs| instances(&of, service, &more));
    let of = Arc::clone(scene);
    environment.add_function("services", move |more: Kwargs| {
        let tag: Option<String> = more.get("tag")?;
        more.assert_all_used()?;
        let services = of.services();
        let wanted = services.values().filter(|service| tag.as_ref().is_none_or(|tag| service.tags.contains(tag)));
        Ok::<_, Error>(wanted.map(value).collect::<Value>())
    });
    let of = Arc::clone(scene);
    environment.add_function("members", move |more: Kwargs| {
        let (state, zone): (Option<String>, Option<String>) = (more.get("state")?, more.get("zone")?);
        more.assert_all_used()?;
        let wanted = of.members.iter().filter(|member| {
            state.as_ref().is_none_or(|state| member.state == *state)
                && zone.as_ref().is_none_or(|zone| member.zone == *zone)
        });
        Ok::<_, Error>(wanted.map(value).collect::<Value>())
    });
    let of = Arc::clone(scene);
    environment.add_function("zones", move || {
        let zones: std::collections::BTreeSet<&str> = of.members.iter().map(|member| member.zone.as_str()).collect();
        zones.into_iter().filter(|zone| !zone.is_empty()).map(Value::from).collect::<Value>()
    });
    environment.add_function("env", |name: String, more: Kwargs| {
        let default: Option<String> = more.get("default")?;
        more.assert_all_used()?;
        std::env::var(&name).ok().or(default).ok_or_else(|| {
            Error::new(ErrorKind::UndefinedError, format!("the environment has no {name:?}, and there is no default="))
        })
    });
    environment.add_function("fail", |text: String| Err::<Value, _>(Error::new(ErrorKind::InvalidOperation, text)));
    environment.add_filter("ident", |text: String| named(&text, '_', |c| c.is_ascii_alphanumeric() || c == '_'));
    environment.add_filter("label", |text: String| {
        named(&text.to_ascii_lowercase(), '-', |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    });
}

/// Tags come one, or several: all of them must be there.
fn instances(scene: &Scene, service: Option<String>, more: &Kwargs) -> Result<Value, Error> {
    let tags: Vec<String> = match more.get::<Option<Value>>("tag")? {
        None => Vec::new(),
        Some(one) if one.as_str().is_some() => vec![one.to_string()],
        Some(several) => several.try_iter()?.map(|tag| tag.to_string()).collect(),
    };
    let zone: Option<String> = more.get("zone")?;
    let is_healthy = more.get::<Option<bool>>("healthy")?.unwrap_or(true);
    more.assert_all_used()?;
    let is_wanted = |instance: &&Instance| {
        service.as_ref().is_none_or(|service| instance.service == *service)
            && zone.as_ref().is_none_or(|zone| instance.zone == *zone)
            && tags.iter().all(|tag| instance.tags.contains(tag))
    };
    Ok(if is_healthy {
        scene.callable().filter(is_wanted).map(value).collect()
    } else {
        scene.instances.iter().filter(is_wanted).map(value).collect()
    })
}

fn value(of: impl serde::Serialize) -> Value {
    Value::from(Serde(of))
}

/// A name of only such characters. Whatever had to be replaced gets a mark, so that two names do not become one.
fn named(text: &str, stand_in: char, is_plain: impl Fn(char) -> bool) -> String {
    if !text.is_empty() && text.chars().all(&is_plain) {
        return text.to_owned();
    }
    let plain: String = text.chars().map(|c| if is_plain(c) { c } else { stand_in }).collect();
    format!("{plain}{stand_in}{:08x}", xxh3_64(text.as_bytes()) as u32)
}

/// Takes up to the limit, then fails.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > RENDERED_BYTES_MAX {
            return Err(std::io::Error::other("too much"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scene::tests::{listed, scene};
    use super::*;

    fn made(template: &str, scene: &Scene) -> Result<String, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("x.j2");
        std::fs::write(&path, template).expect("it can be written");
        let rendered = render(&path, &Arc::new(scene.clone())).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(rendered).expect("text"))
    }

    fn two() -> Scene {
        scene(&[
            listed("web", "2", "10.0.0.2", json!({ "tags": ["v1", "v2"], "meta": { "rack": "b7" } })),
            listed("web", "1", "10.0.0.1", json!({ "tags": ["v1"], "zone": "us" })),
            listed("db", "3", "10.0.0.3", json!({ "healthy": false, "out": "critical" })),
        ])
    }

    #[test]
    fn a_template_sees_what_it_asks_for_and_no_more() {
        let scene = two();
        let of = |what: &str| made(&format!("{{% for i in {what} %}}{{{{ i.host }}}} {{% endfor %}}"), &scene).unwrap();
        assert_eq!(of("instances('web')"), "10.0.0.1 10.0.0.2 ");
        assert_eq!(of("instances('web', tag='v2')"), "10.0.0.2 ");
        assert_eq!(of("instances('web', tag=['v1', 'v2'])"), "10.0.0.2 ");
        assert_eq!(of("instances('web', zone='us')"), "10.0.0.1 ");
        assert_eq!(of("instances('db')"), "", "it should get no calls");
        assert_eq!(of("instances('db', healthy=false)"), "10.0.0.3 ");
        assert_eq!(of("instances(healthy=false)"), "10.0.0.3 10.0.0.1 10.0.0.2 ");
        assert_eq!(of("members(zone='eu')"), "10.0.0.1 ");
        let text = "{{ cluster }} {{ agent.name }} {{ zones() | join }} {% for s in services() %}{{ s.name }} \
                    {{ s.healthy }}/{{ s.instances }} {% endfor %}";
        assert_eq!(made(text, &scene).unwrap(), "c a eu db 0/1 web 2/2 ");
        assert_eq!(made("{{ instances('web', tag='v2')[0].meta.rack }}", &scene).unwrap(), "b7");
    }

    #[test]
    fn equal_scenes_give_equal_bytes_and_nothing_is_escaped() {
        let template = "{% for i in instances(healthy=false) %}{{ i }} <&> {% endfor %}{{ members() }}\n";
        let one = made(template, &two()).unwrap();
        assert_eq!(one, made(template, &two()).unwrap());
        assert!(one.contains("<&>") && one.ends_with('\n'));
        assert!(!one.contains("evidence"), "an age would be another at every look");
    }

    #[test]
    fn an_error_names_file_and_line_and_what_is_wrong() {
        for (template, line, what) in [
            ("a\n{{ nothing }}", "x.j2:2", "default"),
            ("a\nb\n{{ instances('web')[0].meta.none }}", "x.j2:3", "default"),
            ("{% if %}", "x.j2:1", "syntax"),
            ("{{ fail('nobody serves web') }}", "x.j2:1", "nobody serves web"),
            ("\n{{ instances(tga='v2') }}", "x.j2:2", "tga"),
            ("\n{{ env('TIDINGS_NO_SUCH') }}", "x.j2:2", "TIDINGS_NO_SUCH"),
            ("{% include '../secret' %}", "x.j2:1", "below"),
        ] {
            let error = made(template, &two()).unwrap_err();
            assert!(error.contains(line) && error.contains(what), "{template}: {error}");
        }
        assert_eq!(made("{{ env('TIDINGS_NO_SUCH', default='x') }}", &two()).unwrap(), "x");
    }

    #[test]
    fn what_is_included_is_named_when_it_is_wrong() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("it can be written");
        write("x.j2", "{% include 'part.j2' %}");
        write("part.j2", "one\n{{ nothing }}");
        let scene = Arc::new(two());
        let error = render(&dir.path().join("x.j2"), &scene).unwrap_err().to_string();
        assert!(error.contains("part.j2:2"), "{error}");
        write("part.j2", "{{ cluster }}");
        assert_eq!(render(&dir.path().join("x.j2"), &scene).unwrap(), b"c");
    }

    #[test]
    fn what_does_not_end_or_is_too_much_fails() {
        let much = "{% for a in range(9999) %}{% for b in range(9999) %}{{ 'x' * 100 }}{% endfor %}{% endfor %}";
        let error = made(much, &two()).unwrap_err();
        assert!(error.contains(&RENDERED_BYTES_MAX.to_string()), "{error}");
        let long = "{% for a in range(9999) %}{% for b in range(9999) %}{% set x = a * b %}{% endfor %}{% endfor %}";
        let error = made(long, &two()).unwrap_err();
        assert!(error.contains("does a loop not end"), "{error}");
        let big = "x".repeat(TEMPLATE_BYTES_MAX as usize + 1);
        assert!(made(&big, &two()).unwrap_err().contains("longer than"));
    }

    #[test]
    fn a_name_becomes_one_that_means_nothing_to_others_and_stays_another() {
        let ident = |text: &str| made("{{ instances()[0].id | ident }}", &scene(&[listed("s", text, "h", json!({}))]));
        assert_eq!(ident("web_1").unwrap(), "web_1");
        let (one, other) = (ident("a; } b").unwrap(), ident("a; } c").unwrap());
        assert!(one.starts_with("a____b_") && one.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{one}");
        assert_ne!(ident("a-b").unwrap(), ident("a.b").unwrap());
        assert_ne!(one, other);
        assert_eq!(made("{{ 'Web-1' | label }}", &two()).unwrap(), "web-1");
    }
}
