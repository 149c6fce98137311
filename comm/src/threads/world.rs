//! The engine of ranks that are threads: a table where the members of a group find its board.
use super::{Board, End, Host, Mover};
use crate::{CommError, Communicator, Engine};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One rank of a world of threads.
pub struct Threads<M: Mover = Host> {
    rank: usize,
    /// Makes the means of a rank for each of its groups.
    movers: Box<dyn Fn() -> M + Send>,
    /// How often this rank has joined a group of that name and those members.
    joined: Mutex<HashMap<Group, usize>>,
    timeout: Duration,
    table: Arc<Mutex<Table<M>>>,
}

type Group = (String, Vec<usize>);

/// A board, and who has joined it.
type Joined<M> = (Arc<Board<M>>, Vec<bool>);

struct Table<M: Mover> {
    /// Those that not all members have joined, by how many of the same group there were before.
    boards: HashMap<(Group, usize), Joined<M>>,
    /// Ranks whose engine was dropped, in a panic too: they join nothing any more.
    gone: Vec<bool>,
}

impl Threads {
    /// Ranks `0..n`, for a thread each. A member that is `timeout` late is an error.
    pub fn world(n: usize, timeout: Duration) -> Vec<Threads> {
        Threads::moving(n, timeout).into_iter().map(|rank| rank.by(|| Host)).collect()
    }
}

impl<M: Mover> Threads<M> {
    /// The same, of ranks that say [by](Threads::by) what they move before they join a group.
    pub fn moving(n: usize, timeout: Duration) -> Vec<Threads<M>> {
        let table = Arc::new(Mutex::new(Table { boards: HashMap::new(), gone: vec![false; n] }));
        let rank = |rank| Threads {
            rank,
            movers: Box::new(|| unreachable!("a rank says what it moves by")),
            joined: Mutex::default(),
            timeout,
            table: table.clone(),
        };
        (0..n).map(rank).collect()
    }

    pub fn by(mut self, movers: impl Fn() -> M + Send + 'static) -> Threads<M> {
        self.movers = Box::new(movers);
        self
    }
}

impl<M: Mover> Engine for Threads<M> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn join(&self, name: &str, members: &[usize]) -> Result<Box<dyn Communicator>, CommError> {
        let place = super::place(self.rank, members);
        let group = (name.to_string(), members.to_vec());
        let mut joined = self.joined.lock().unwrap();
        let nth = joined.entry(group.clone()).or_default();
        let key = (group, *nth);
        *nth += 1;
        let mut table = self.table.lock().unwrap();
        let Table { boards, gone } = &mut *table;
        let (board, here) = boards.entry(key.clone()).or_insert_with(|| {
            let board = Board::new(name, members, self.timeout);
            members.iter().enumerate().filter(|(_, rank)| gone[**rank]).for_each(|(member, _)| board.leave(member));
            (board, vec![false; members.len()])
        });
        here[place] = true;
        let end = End::new(place, board.clone(), (self.movers)());
        if here.iter().all(|here| *here) {
            boards.remove(&key);
        }
        Ok(Box::new(end))
    }
}

impl<M: Mover> Drop for Threads<M> {
    fn drop(&mut self) {
        // A poisoned table is loud by itself.
        let Ok(mut table) = self.table.lock() else { return };
        table.gone[self.rank] = true;
        for (((_, members), _), (board, here)) in &table.boards {
            if let Some(member) = members.iter().position(|rank| *rank == self.rank).filter(|member| !here[*member]) {
                board.leave(member);
            }
        }
    }
}
