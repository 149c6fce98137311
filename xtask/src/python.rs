//! A Python interpreter, and whether it has the packages that a script in xtask/py needs.
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the scripts that only open models need; as pip spells it.
pub const TRANSFORMERS: &[&str] = &["torch", "transformers>=5"];

/// Prints the requirements (`name` or `name>=MAJOR`) that are not installed.
const MISSING: &str = "
import sys
from importlib.metadata import PackageNotFoundError, version
for need in sys.argv[1:]:
    name, _, least = need.partition('>=')
    try:
        if int(version(name).split('.')[0]) < int(least or 0):
            print(need)
    except PackageNotFoundError:
        print(need)
";

pub struct Python {
    program: PathBuf,
}

impl Python {
    /// `given`, or what INTERNEVO_PYTHON names, or `python3`.
    pub fn find(given: Option<&Path>) -> Python {
        let named = || std::env::var_os("INTERNEVO_PYTHON").map(PathBuf::from);
        Python { program: given.map(Path::to_path_buf).or_else(named).unwrap_or("python3".into()) }
    }

    /// The interpreter of a virtual environment at `folder`, which is made, and filled, where it lacks something.
    pub fn environment(folder: &Path, needs: &[&str]) -> Result<Python> {
        let python = Python { program: folder.join("bin/python") };
        if !python.program.exists() {
            println!("making a virtual environment in {}", folder.display());
            succeed(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        }
        let missing = python.missing(needs)?;
        if !missing.is_empty() {
            println!("installing {}", missing.join(", "));
            let pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"];
            succeed(Command::new(&python.program).args(pip).args(&missing))?;
        }
        Ok(python)
    }

    fn missing(&self, needs: &[&str]) -> Result<Vec<String>> {
        let out = Command::new(&self.program)
            .args(["-c", MISSING])
            .args(needs)
            .output()
            .with_context(|| format!("{} does not start", self.program.display()))?;
        ensure!(out.status.success(), "{} fails: {}", self.program.display(), String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8_lossy(&out.stdout).lines().map(str::to_string).collect())
    }

    /// Why this interpreter cannot run a script with these needs, if so.
    pub fn lacks(&self, needs: &[&str]) -> Option<String> {
        match self.missing(needs) {
            Err(error) => Some(format!("{error:#}")),
            Ok(missing) if missing.is_empty() => None,
            Ok(missing) => Some(format!("{} has no {}", self.program.display(), missing.join(", "))),
        }
    }

    pub fn require(&self, needs: &[&str]) -> Result<()> {
        match self.lacks(needs) {
            None => Ok(()),
            Some(reason) => bail!("{reason}; install it, or name another interpreter by --python"),
        }
    }

    pub fn program(&self) -> Command {
        Command::new(&self.program)
    }

    /// A script in xtask/py.
    pub fn script(&self, root: &Path, name: &str) -> Command {
        let mut command = self.program();
        command.arg(root.join("xtask/py").join(name));
        command
    }
}

/// Runs a command to its end.
pub fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let status = command.status().with_context(|| format!("{program} does not start"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// The same; what the command prints is shown only if it fails.
pub fn quietly(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let out = command.output().with_context(|| format!("{program} does not start"))?;
    ensure!(out.status.success(), "{command:?}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// The JSON that a command prints, given `input` on its standard input.
pub fn json(command: &mut Command, input: &str) -> Result<Value> {
    let program = command.get_program().display().to_string();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} does not start"))?;
    let mut stdin = child.stdin.take().expect("it is piped");
    // A child that stops early closes the pipe; its status says why.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let out = child.wait_with_output().with_context(|| format!("{program} cannot be waited for"))?;
    ensure!(out.status.success(), "{command:?}: {}", out.status);
    written.with_context(|| format!("{program} does not read its input"))?;
    serde_json::from_slice(&out.stdout).with_context(|| format!("{command:?} does not print JSON"))
}
