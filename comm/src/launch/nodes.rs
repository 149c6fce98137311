//! Slurm's lists of hosts: `gpu[01-03,07],login,c[1-2]d[3-4]` is `gpu01 gpu02 gpu03 gpu07 login c1d3 c1d4 c2d3 c2d4`;
//! and of the tasks on each.

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NodesError {
    #[error("a bracket of `{0}` has no partner")]
    Bracket(String),
    #[error("`{0}` is not a number or a range of numbers, as in [01-03,07]")]
    Range(String),
    #[error("the list has no host, or an empty one")]
    Empty,
    #[error("more than {MOST} hosts")]
    Many,
    #[error("it is no list of tasks for host {0}, as in 4(x2),3 for three hosts")]
    Tasks(usize),
}

/// Larger than any cluster; a list is not to fill the memory.
const MOST: usize = 1 << 20;

/// All hosts of a list, in Slurm's order: the last bracket runs fastest.
pub fn expand(list: &str) -> Result<Vec<String>, NodesError> {
    let mut all = vec![];
    for entry in entries(list)? {
        all.extend(hosts(entry, MOST.saturating_sub(all.len()))?);
    }
    Ok(all)
}

/// The first host of a list.
pub fn first(list: &str) -> Result<String, NodesError> {
    Ok(expand(list)?.swap_remove(0))
}

/// Tasks of a host, by its number, out of a list such as `4(x2),3`: four on each of two hosts, three on a third.
pub fn tasks_of(list: &str, node: usize) -> Result<usize, NodesError> {
    let wrong = || NodesError::Tasks(node);
    let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
    let mut before = 0_usize;
    for entry in list.split(',') {
        let (tasks, hosts) = match entry.split_once("(x") {
            Some((tasks, times)) => (number(tasks)?, number(times.strip_suffix(')').ok_or_else(wrong)?)?),
            None => (number(entry)?, 1),
        };
        before = before.saturating_add(hosts);
        if node < before {
            return Ok(tasks);
        }
    }
    Err(wrong())
}

/// Cuts at the commas outside of brackets.
fn entries(list: &str) -> Result<Vec<&str>, NodesError> {
    let (mut inside, mut from, mut out) = (false, 0, vec![]);
    for (at, c) in list.char_indices() {
        match c {
            '[' if inside => return Err(NodesError::Bracket(list.into())),
            ']' if !inside => return Err(NodesError::Bracket(list.into())),
            '[' | ']' => inside = !inside,
            ',' if !inside => {
                out.push(&list[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    out.push(&list[from..]);
    match inside {
        true => Err(NodesError::Bracket(list.into())),
        false if out.contains(&"") => Err(NodesError::Empty),
        false => Ok(out),
    }
}

/// `prefix[ranges]rest`, whose rest may have brackets again.
fn hosts(entry: &str, most: usize) -> Result<Vec<String>, NodesError> {
    let Some((prefix, after)) = entry.split_once('[') else { return Ok(vec![entry.into()]) };
    let (ranges, rest) = after.split_once(']').expect("`entries` has paired the brackets");
    let rest = hosts(rest, most)?;
    let mut out = vec![];
    for range in ranges.split(',') {
        let wrong = || NodesError::Range(range.into());
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let [first, last] = [low, high].map(|n| if digits(n) { n.parse::<u64>().ok() } else { None });
        let (first, last) = first.zip(last).filter(|(first, last)| first <= last).ok_or_else(wrong)?;
        // A number is as wide as the lower end is written.
        let width = low.len();
        for number in first..=last {
            if out.len() + rest.len() > most {
                return Err(NodesError::Many);
            }
            out.extend(rest.iter().map(|rest| format!("{prefix}{number:0width$}{rest}")));
        }
    }
    Ok(out)
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}
