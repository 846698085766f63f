//! JSON views of protobuf messages, by reflection: what operators see of a dead letter, and the structured form in which
//! CloudEvents may arrive.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use std::sync::LazyLock;

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(crate::DESCRIPTORS).ok());

/// Why a message and its JSON could not be brought together.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// No such message in `proto/`.
    #[error("unknown message {0}")]
    UnknownMessage(String),
    /// The bytes are not that message.
    #[error("not a {0}: {1}")]
    Decode(String, prost::DecodeError),
    /// The JSON is not that message.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

fn descriptor(message: &str) -> Result<prost_reflect::MessageDescriptor, JsonError> {
    let pool = POOL.as_ref();
    pool.and_then(|p| p.get_message_by_name(message)).ok_or_else(|| JsonError::UnknownMessage(message.to_owned()))
}

/// The proto3 JSON of an encoded message.
pub fn view(message: &str, payload: &[u8]) -> Result<serde_json::Value, JsonError> {
    let dynamic =
        DynamicMessage::decode(descriptor(message)?, payload).map_err(|e| JsonError::Decode(message.to_owned(), e))?;
    Ok(serde_json::to_value(dynamic)?)
}

/// The encoded message of a proto3 JSON.
pub fn encode(message: &str, json: serde_json::Value) -> Result<Vec<u8>, JsonError> {
    Ok(DynamicMessage::deserialize(descriptor(message)?, json)?.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn shows_and_reads_a_message() {
        let event = v1::CustomerSegmented { merchant_id: "acme".into(), segment: 4, ..Default::default() };
        let json = view("dunlin.events.v1.CustomerSegmented", &event.encode_to_vec()).unwrap();
        assert_eq!(json["segment"], "SEGMENT_USUALLY_LATE");
        let back = encode("dunlin.events.v1.CustomerSegmented", json).unwrap();
        assert_eq!(v1::CustomerSegmented::decode(&*back).unwrap(), event);
        assert!(matches!(view("dunlin.events.v1.Nothing", &[]), Err(JsonError::UnknownMessage(_))));
        assert!(encode("dunlin.events.v1.CustomerSegmented", serde_json::json!({"nonsense": 1})).is_err());
    }
}
