//! CRIU's protobuf messages, as far as hull uses them.
//!
//! prost-build generated `rpc.rs` and `cgroup.rs` from the `.proto` files beside them. Both are
//! checked in, so that the build of hull does not need protoc: `scripts/criu-proto` generates them
//! again, and `scripts/criu-proto --check` fails where they are out of date.

/// The image `cgroup.img`.
pub(crate) mod cgroup;
/// Requests to CRIU and its responses.
#[allow(dead_code)] // prost-build gives every enum functions that hull does not call
pub(crate) mod rpc;

#[cfg(test)]
mod tests {
    use super::rpc::{CriuOpts, CriuReq, CriuReqType, CriuResp, ExtMountMap};
    use prost::Message;

    /// The bytes by hand: field number and wire type in front of each value (protocol buffers,
    /// Encoding).
    #[test]
    fn a_request_is_encoded_as_the_protocol_says() {
        let opts = CriuOpts {
            images_dir_fd: 5,
            pid: Some(7),
            ext_mnt: vec![ExtMountMap {
                key: "/a".into(),
                val: "/b".into(),
            }],
            ..CriuOpts::default()
        };
        let request = CriuReq {
            r#type: CriuReqType::Dump as i32,
            opts: Some(opts),
            ..CriuReq::default()
        };
        let mount = [0x0a, 2, b'/', b'a', 0x12, 2, b'/', b'b'];
        let mut inner = vec![0x08, 5, 0x10, 7, 0xba, 0x01, mount.len() as u8];
        inner.extend(mount);
        let mut whole = vec![0x08, 1, 0x12, inner.len() as u8];
        whole.extend(inner);
        assert_eq!(request.encode_to_vec(), whole);
    }

    #[test]
    fn a_response_is_decoded() {
        let bytes = [
            0x08, 6, 0x10, 1, 0x2a, 13, 0x0a, 9, b'p', b'o', b's', b't', b'-', b'd', b'u', b'm',
            b'p', 0x10, 42,
        ];
        let response = CriuResp::decode(&bytes[..]).unwrap();
        assert_eq!(response.r#type(), CriuReqType::Notify);
        assert!(response.success);
        let notify = response.notify.unwrap();
        assert_eq!(
            (notify.script.as_deref(), notify.pid),
            (Some("post-dump"), Some(42))
        );
    }
}
