//! What ranks print, line by line with their number.
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::Sender;
use std::thread;

/// Hands on in a thread until `from` ends; `open` closes with it.
pub fn prefixed(rank: usize, from: impl Read + Send + 'static, to: impl Write + Send + 'static, open: Sender<()>) {
    thread::spawn(move || {
        hand_on(rank, from, to);
        drop(open);
    });
}

fn hand_on(rank: usize, from: impl Read, mut to: impl Write) {
    let mut from = BufReader::new(from);
    let mut line = vec![];
    // An error ends the output as its end does: what the rank makes of it is in its exit code.
    while from.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        let mut whole = format!("[{rank}] ").into_bytes();
        whole.append(&mut line);
        // If nobody reads us any more the rank goes on all the same, and must not wait for us.
        let _ = to.write_all(&whole).and_then(|()| to.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_rank() {
        for (said, shown) in
            [("", ""), ("a\n", "[3] a\n"), ("a\n\nb", "[3] a\n[3] \n[3] b\n"), ("a\rb\n", "[3] a\rb\n")]
        {
            let mut out = vec![];
            hand_on(3, said.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), shown);
        }
    }
}
