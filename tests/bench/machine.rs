//! The machine and the time of a measurement, without which a figure is meaningless.

use std::fs;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

#[derive(Debug)]
pub struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    slurm: String,
    commit: String,
    date: String,
    load: String,
}

impl Machine {
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let processor = model.and_then(|line| line.split_once(':')).map_or("unknown", |(_, name)| name.trim());
        Self {
            processor: processor.to_owned(),
            cores: thread::available_parallelism().map_or(0, usize::from),
            kernel: told("uname", &["-r"]),
            slurm: told("slurmd", &["-V"]).trim_start_matches("slurm-wlm ").trim_start_matches("slurm ").to_owned(),
            commit: told("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
            date: told("date", &["-u", "+%F"]),
            load: told("cut", &["-d ", "-f1", "/proc/loadavg"]),
        }
    }

    /// A remark about the figures if other programs are running.
    pub fn warning(&self) -> Option<String> {
        let load: f64 = self.load.parse().ok()?;
        (load > 0.5)
            .then(|| format!("the machine is busy (load {load}): medians and ratios may be worse than they are"))
    }

    /// One line for people.
    pub fn text(&self) -> String {
        let Self { processor, cores, kernel, slurm, commit, date, .. } = self;
        format!("{date} at commit {commit}: {processor}, {cores} cores, Linux {kernel}, Slurm {slurm}")
    }

    pub fn json(&self) -> Value {
        json!({
            "processor": self.processor,
            "cores": self.cores,
            "kernel": self.kernel,
            "slurm": self.slurm,
            "commit": self.commit,
            "date": self.date,
            "load_before": self.load,
        })
    }
}

/// What a program prints, in one line.
fn told(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
