//! Who moves the memory of ranks that are threads: the host, or the card that all of them are on.
use super::job::{Job, Post};
use crate::Call;
use backend::Mark;

/// One member's means of moving what a complete operation says.
pub trait Mover: Send + 'static {
    /// From when on this member's memory may be touched.
    type Ready: Clone + Send;
    /// A complete operation.
    type Job: Send + Sync;
    /// Whether the last member to come begins the operation, instead of the first one to wait for it.
    const AT_ONCE: bool;

    /// The memory may be touched once compute has passed `after`.
    fn ready(&mut self, after: Mark) -> Self::Ready;
    /// `posts` has what each member brought; nothing of one that does not take part.
    fn job(call: Call, posts: Vec<Option<(Post, Self::Ready)>>) -> Self::Job;
    /// Does what others have not taken. True for the one who made an end of it.
    fn work(&mut self, job: &Self::Job) -> bool;
    /// What this member's device does from now on comes after the operation, which somebody has made an end of.
    fn done(&mut self, job: &Self::Job);
    /// The same for the host.
    fn end(&mut self, job: &Self::Job);
}

/// Memory of the host, on which compute has happened when an operation is started.
pub struct Host;

impl Mover for Host {
    type Ready = ();
    type Job = Job;
    const AT_ONCE: bool = false;

    fn ready(&mut self, _after: Mark) {}
    fn job(call: Call, posts: Vec<Option<(Post, ())>>) -> Job {
        let posts: Vec<Post> = posts.into_iter().map(|post| post.map(|(post, ())| post).unwrap_or_default()).collect();
        for span in posts.iter().flatten().flatten() {
            assert!(span.is_of_host(), "{call} of memory that the host cannot touch");
        }
        Job::new(call, posts)
    }
    fn work(&mut self, job: &Job) -> bool {
        job.work()
    }
    fn done(&mut self, _job: &Job) {}
    fn end(&mut self, _job: &Job) {}
}
