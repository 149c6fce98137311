//! File systems of their own, as only root can mount them.
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why nothing can be mounted here, if so.
pub fn lacks() -> Option<String> {
    let folder = std::env::temp_dir().join(format!("faults-{}", std::process::id()));
    let tried = probe(&folder).err().map(|error| format!("no file system can be mounted: {error:#}"));
    // What is left of the probe is a file of a megabyte in the folder for such.
    let _ = fs::remove_dir_all(&folder);
    tried
}

fn probe(folder: &Path) -> Result<()> {
    let (image, point) = (folder.join("image"), folder.join("point"));
    fs::create_dir_all(&point)?;
    make(&image, 1)?;
    Mount::image(&image, &point).map(drop)
}

/// An empty ext4 in a file, with all that the kernel would write to it by and by.
pub fn make(image: &Path, megabytes: u64) -> Result<()> {
    let file = fs::File::create(image).with_context(|| format!("cannot write {}", image.display()))?;
    file.set_len(megabytes << 20)?;
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(image))
}

/// Unmounted where it is dropped.
pub struct Mount(PathBuf);

impl Mount {
    /// What a journal has is replayed.
    pub fn image(image: &Path, point: &Path) -> Result<Mount> {
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(point))?;
        Ok(Mount(point.into()))
    }

    /// A tmpfs.
    pub fn memory(bytes: u64, point: &Path) -> Result<Mount> {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"]).arg(point))?;
        Ok(Mount(point.into()))
    }

    /// Makes a tmpfs smaller or larger.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        run(Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(&self.0))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What still uses it fails by itself when the folder is to be removed.
        let _ = run(Command::new("umount").arg(&self.0));
    }
}

/// What an earlier run, ended from outside, has left mounted below a folder.
pub fn clear(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    points.filter(|point| point.starts_with(folder)).try_for_each(|point| run(Command::new("umount").arg(point)))
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let out = command.output().with_context(|| format!("{program} does not start"))?;
    ensure!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}
