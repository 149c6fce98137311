//! All-to-all of parts that have lengths of their own, as experts of a mixture want it: a batch of pairs.
//!
//! A pair that does not agree on its length is an error that names both ranks and both lengths, as for any
//! `SendRecv`. So an empty part is sent too: one side that thinks it is empty must not leave the other one waiting.
use crate::{Coll, CommError, Communicator, Ticket, Transfer};
use backend::{Loan, Mark};

/// `sends[i]` goes to member `i`, into its `receives[rank]`. Wait for all the tickets; each gives back its own loans.
pub fn all_to_all_uneven(
    comm: &mut dyn Communicator,
    after: Mark,
    sends: Vec<Loan>,
    receives: Vec<Loan>,
) -> Result<Vec<Ticket>, CommError> {
    let (me, n) = (comm.rank(), comm.size());
    assert_eq!([sends.len(), receives.len()], [n; 2], "a part for each of {n} members, both ways");
    let mut transfers = vec![];
    for (member, (send, receive)) in sends.into_iter().zip(receives).enumerate() {
        let [out, back] = [[me, member], [member, me]].map(|[from, to]| Coll::SendRecv { from, to });
        if member == me {
            transfers.push(Transfer { op: out, src: Some(send), dst: Some(receive) });
        } else {
            transfers.push(Transfer { op: out, src: Some(send), dst: None });
            transfers.push(Transfer { op: back, src: None, dst: Some(receive) });
        }
    }
    comm.batch(after, transfers)
}
