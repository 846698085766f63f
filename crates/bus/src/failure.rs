use events::Malformed;

/// Why a handler could not deal with its batch, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Not the events' fault (database, network): redeliver the batch later, however often that takes.
    #[error("try again: {0}")]
    Retry(String),
    /// An event can never work as it is. The loop finds out which, if the batch held several.
    #[error("{0}")]
    Reject(String),
}

impl From<sqlx::Error> for Failure {
    /// Classes 22 (data exception) and 23 (integrity violation) are the data's fault, everything else the world's.
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|e| e.code()).unwrap_or_default();
        if code.starts_with("22") || code.starts_with("23") {
            Self::Reject(error.to_string())
        } else {
            Self::Retry(error.to_string())
        }
    }
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::Reject(error.to_string())
    }
}
