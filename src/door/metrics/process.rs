//! What the system knows of this process, under the names that all of Prometheus's client libraries use. Only on Linux,
//! where a process can read it.

use super::text::{Family, Kind, Page};

pub(super) const FAMILIES: [Family; 4] = [
    Family { name: "process_cpu_seconds", kind: Kind::Counter, help: "User and system time of this process." },
    Family { name: "process_resident_memory_bytes", kind: Kind::Gauge, help: "Resident memory of this process." },
    Family { name: "process_open_fds", kind: Kind::Gauge, help: "Open file descriptors of this process." },
    Family { name: "process_threads", kind: Kind::Gauge, help: "Threads of this process." },
];

/// Writes what can be read; nothing where it cannot.
pub(super) fn write(page: &mut Page) {
    for (family, value) in FAMILIES.into_iter().zip(read()) {
        if let Some(value) = value {
            page.family(family);
            page.series(&[], value);
        }
    }
}

#[cfg(target_os = "linux")]
fn read() -> [Option<f64>; 4] {
    let stat = std::fs::read_to_string("/proc/self/stat").ok();
    // The name of the command stands in parentheses and may have any character in it (proc(5)).
    let fields: Vec<&str> = stat
        .as_deref()
        .and_then(|text| text.rsplit_once(')'))
        .map_or(Vec::new(), |(_, after)| after.split_ascii_whitespace().collect());
    // Counted from the third field, the state.
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks);
    let memory = field(24).map(|pages| pages * rustix::param::page_size() as f64);
    // The directory that is read here is open itself.
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|all| all.count().saturating_sub(1) as f64);
    [cpu, memory, open, field(20)]
}

#[cfg(not(target_os = "linux"))]
fn read() -> [Option<f64>; 4] {
    [None; 4]
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_memory_its_descriptors_and_its_threads() {
        let [cpu, memory, open, threads] = read().map(|value| value.expect("it can be read"));
        assert!(cpu >= 0.0 && memory > 1e6 && open >= 3.0 && threads >= 1.0, "{cpu} {memory} {open} {threads}");
    }
}
