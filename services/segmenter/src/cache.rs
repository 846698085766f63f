//! The customers that paid last, in memory.
//!
//! Several replicas run, so what is kept may be old: whoever writes says which revision it comes from, and a row that another
//! replica has written meanwhile is not hit. Only what is committed is kept.

use crate::domain::{Account, PayerKey};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, UnitWeighter};
use std::hash::{BuildHasherDefault, Hasher};

/// Merchant and customer as 128 bits of SHA-1: no names are kept. In words of four bytes, so that no row is padded to sixteen.
type Key = [u32; 4];

/// Accounts by customer, bounded.
pub struct Accounts(Cache<Key, Kept, UnitWeighter, BuildHasherDefault<KeyHasher>>);

/// An account at a revision.
#[derive(Debug, Clone, Copy)]
struct Kept {
    account: Account,
    revision: u32,
}

impl Accounts {
    /// Room for so many customers. Memory is taken as they come.
    pub fn new(customers: u32) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(customers as usize)
            .weight_capacity(customers.into())
            // No memory of those that had to go: it would take as much as they did.
            .ghost_allocation(0.0)
            .build();
        let hasher = BuildHasherDefault::default();
        // The options are complete; if not, the library's defaults are bounded too.
        Self(match options {
            Ok(options) => Cache::with_options(options, UnitWeighter, hasher, DefaultLifecycle::default()),
            Err(_) => {
                Cache::with(customers as usize, customers.into(), UnitWeighter, hasher, DefaultLifecycle::default())
            }
        })
    }

    /// What is kept of a customer, with its revision.
    pub fn get(&self, key: &PayerKey) -> Option<(Account, i64)> {
        self.0.get(&hash(key)).map(|kept| (kept.account, kept.revision.into()))
    }

    /// Keeps what was committed.
    pub fn put(&self, key: &PayerKey, account: Account, revision: i64) {
        match u32::try_from(revision) {
            Ok(revision) => self.0.insert(hash(key), Kept { account, revision }),
            Err(_) => self.forget(key),
        }
    }

    /// Forgets what is old.
    pub fn forget(&self, key: &PayerKey) {
        self.0.remove(&hash(key));
    }

    /// How many customers are kept.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn hash(key: &PayerKey) -> Key {
    let id = kernel::id::derive("payer", key.0.as_str(), key.1.as_str(), "").as_u128();
    [id as u32, (id >> 32) as u32, (id >> 64) as u32, (id >> 96) as u32]
}

/// Keys are hashes already: their halves are mixed, and that is all.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for eight in bytes.chunks(8) {
            let word = eight.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            self.0 = self.0.rotate_left(1) ^ word;
        }
    }
}
