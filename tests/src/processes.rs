//! All five services as processes of their own.
