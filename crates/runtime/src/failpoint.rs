//! Named points at which a test makes a process die, or looks on. A release build has none.

use uuid::Uuid;

/// Something has come to a named point. With `DUNLIN_DIE_AT=<point>` in the environment the process is killed there, as by
/// `kill -9`.
#[inline]
pub fn reached(point: &str, id: Uuid) {
    #[cfg(debug_assertions)]
    debug::reached(point, id);
    #[cfg(not(debug_assertions))]
    let _ = (point, id);
}

#[cfg(debug_assertions)]
pub use debug::look_on;

#[cfg(debug_assertions)]
mod debug {
    use rustix::process::{Signal, getpid, kill_process};
    use std::sync::{LazyLock, OnceLock};
    use uuid::Uuid;

    type Look = Box<dyn Fn(&str, Uuid) + Send + Sync>;

    static LOOK: OnceLock<Look> = OnceLock::new();
    static DIE_AT: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("DUNLIN_DIE_AT").ok());

    /// From now on, for the life of the process, `look` sees what comes to which point, in the midst of it. The first call
    /// counts.
    pub fn look_on(look: impl Fn(&str, Uuid) + Send + Sync + 'static) {
        let _ = LOOK.set(Box::new(look));
    }

    pub(super) fn reached(point: &str, id: Uuid) {
        if let Some(look) = LOOK.get() {
            look(point, id);
        }
        if DIE_AT.as_deref() == Some(point) {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}
