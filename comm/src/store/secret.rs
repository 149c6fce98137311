//! What proves that a process belongs to a job: HMAC-SHA256 (RFC 2104) over a secret that all ranks were given.
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// The secret of a job, as text: it travels in an environment variable.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the job secret has {0} characters and takes {LEAST} or more; `export INTERNEVO_JOB_SECRET=$(openssl rand -hex 32)` makes one"
)]
pub struct WeakSecret(usize);

const LEAST: usize = 16;

impl Secret {
    pub fn new(text: String) -> Result<Secret, WeakSecret> {
        let characters = text.chars().count();
        if characters < LEAST { Err(WeakSecret(characters)) } else { Ok(Secret(text)) }
    }

    /// 32 bytes of the system's random numbers.
    pub fn random() -> Secret {
        Secret(nonce().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A secret is never shown, not even by accident.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

pub type Tag = [u8; 32];

/// A number that is used once.
pub fn nonce() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}

/// A key for one purpose.
#[derive(Clone)]
pub struct Key(Tag);

impl Key {
    /// The key of a job; without a secret anybody can make it, which is why such a job stays on the loopback.
    pub fn of_job(secret: Option<&Secret>, job: &str) -> Key {
        let secret = secret.map_or("", Secret::as_str);
        Key(mac(secret.as_bytes(), &[b"internevo job", job.as_bytes()]).finalize().into_bytes().into())
    }

    pub fn derive(&self, parts: &[&[u8]]) -> Key {
        Key(self.tag(parts))
    }

    pub fn tag(&self, parts: &[&[u8]]) -> Tag {
        mac(&self.0, parts).finalize().into_bytes().into()
    }

    /// In a time that does not depend on where the tags differ.
    pub fn verifies(&self, parts: &[&[u8]], tag: &Tag) -> bool {
        mac(&self.0, parts).verify_slice(tag).is_ok()
    }
}

/// Each part goes with its length: the same bytes cut elsewhere have another tag.
fn mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2, on the HMAC under our parts.
    #[test]
    fn is_hmac_sha256() {
        let mut hmac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        hmac.update(b"what do ya want for nothing?");
        let hex: String = hmac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_tag_is_of_one_secret_one_job_and_one_cut() {
        let secrets = [None, Some(Secret::new("0123456789abcdef".into()).unwrap()), Some(Secret::random())];
        let mut tags = vec![];
        for secret in &secrets {
            for job in ["", "7.0", "7.1"] {
                for parts in [&[b"ab".as_slice(), b"c"], &[b"a".as_slice(), b"bc"]] {
                    let key = Key::of_job(secret.as_ref(), job);
                    let tag = key.tag(parts);
                    assert!(key.verifies(parts, &tag));
                    assert!(!tags.contains(&tag));
                    tags.push(tag);
                }
            }
        }
    }

    #[test]
    fn secrets_are_long_and_not_shown() {
        assert_eq!(Secret::new("short".into()), Err(WeakSecret(5)));
        let secret = Secret::random();
        assert_eq!((secret.as_str().len(), format!("{secret:?}").as_str()), (64, "Secret(..)"));
    }
}
