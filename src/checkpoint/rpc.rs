//! The messages of CRIU's RPC, by the field numbers of its published `rpc.proto` (protocol buffers,
//! proto2). Only what hull uses.

use prost::Message;

/// What a request asks for, and what a response answers (`criu_req_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// None.
    Empty = 0,
    /// Save a process tree.
    Dump = 1,
    /// Bring it back.
    Restore = 2,
    /// Save memory only, again and again.
    PreDump = 4,
    /// criu says how far it is, and waits for an answer.
    Notify = 6,
    /// What kernel and criu can do.
    FeatureCheck = 9,
    /// criu's version.
    Version = 10,
    /// One pre-dump, without waiting for the next (criu 3.17 and later).
    SinglePreDump = 13,
}

/// How criu treats cgroups (`criu_cg_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CgroupMode {
    /// Not at all.
    Ignore = 0,
    /// Restores what is missing, and values of what it made.
    Soft = 3,
    /// Restores all values.
    Full = 4,
    /// Nothing may be there already.
    Strict = 5,
    /// criu's own choice: soft.
    Default = 6,
}

/// How criu holds the network's packets back while it works (`criu_network_lock_method`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum NetworkLock {
    /// By iptables.
    Iptables = 1,
    /// By nftables (criu 3.17 and later).
    Nftables = 2,
    /// Not at all (criu 3.19 and later): the network is locked by somebody else.
    Skip = 3,
}

/// A page server (`criu_page_server_info`).
#[derive(Clone, PartialEq, Message)]
pub struct PageServer {
    #[prost(string, optional, tag = "1")]
    pub(super) address: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub(super) port: Option<i32>,
}

/// A mount that is not criu's to make: at dump (mount point, key), at restore (key, source)
/// (`ext_mount_map`).
#[derive(Clone, PartialEq, Message)]
pub struct ExternalMount {
    #[prost(string, required, tag = "1")]
    pub(super) key: String,
    #[prost(string, required, tag = "2")]
    pub(super) value: String,
}

/// A namespace that the restored tree joins (`join_namespace`).
#[derive(Clone, PartialEq, Message)]
pub struct JoinNamespace {
    #[prost(string, required, tag = "1")]
    pub(super) kind: String,
    #[prost(string, required, tag = "2")]
    pub(super) file: String,
}

/// A descriptor of criu's own process that takes the place of one in the images (`inherit_fd`).
#[derive(Clone, PartialEq, Message)]
pub struct InheritFd {
    #[prost(string, required, tag = "1")]
    pub(super) key: String,
    #[prost(int32, required, tag = "2")]
    pub(super) descriptor: i32,
}

/// Where the cgroups of a controller are to be (`cgroup_root`).
#[derive(Clone, PartialEq, Message)]
pub struct CgroupRoot {
    #[prost(string, optional, tag = "1")]
    pub(super) controller: Option<String>,
    #[prost(string, required, tag = "2")]
    pub(super) path: String,
}

/// Options of dump and restore (`criu_opts`). Descriptors are those of the process at the socket's
/// other end: hull's.
#[derive(Clone, PartialEq, Message)]
pub struct Options {
    #[prost(int32, required, tag = "1")]
    pub(super) images_dir_fd: i32,
    #[prost(int32, optional, tag = "2")]
    pub(super) pid: Option<i32>,
    #[prost(bool, optional, tag = "3")]
    pub(super) leave_running: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub(super) ext_unix_sk: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub(super) tcp_established: Option<bool>,
    #[prost(bool, optional, tag = "6")]
    pub(super) evasive_devices: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    pub(super) shell_job: Option<bool>,
    #[prost(bool, optional, tag = "8")]
    pub(super) file_locks: Option<bool>,
    #[prost(int32, optional, tag = "9")]
    pub(super) log_level: Option<i32>,
    #[prost(string, optional, tag = "10")]
    pub(super) log_file: Option<String>,
    #[prost(message, optional, tag = "11")]
    pub(super) page_server: Option<PageServer>,
    #[prost(bool, optional, tag = "12")]
    pub(super) notify_scripts: Option<bool>,
    #[prost(string, optional, tag = "13")]
    pub(super) root: Option<String>,
    #[prost(string, optional, tag = "14")]
    pub(super) parent_img: Option<String>,
    #[prost(bool, optional, tag = "15")]
    pub(super) track_mem: Option<bool>,
    #[prost(bool, optional, tag = "16")]
    pub(super) auto_dedup: Option<bool>,
    #[prost(int32, optional, tag = "17")]
    pub(super) work_dir_fd: Option<i32>,
    #[prost(bool, optional, tag = "18")]
    pub(super) link_remap: Option<bool>,
    #[prost(message, repeated, tag = "23")]
    pub(super) ext_mnt: Vec<ExternalMount>,
    #[prost(bool, optional, tag = "24")]
    pub(super) manage_cgroups: Option<bool>,
    #[prost(message, repeated, tag = "25")]
    pub(super) cg_root: Vec<CgroupRoot>,
    #[prost(bool, optional, tag = "26")]
    pub(super) rst_sibling: Option<bool>,
    #[prost(message, repeated, tag = "27")]
    pub(super) inherit_fd: Vec<InheritFd>,
    #[prost(enumeration = "CgroupMode", optional, tag = "34")]
    pub(super) manage_cgroups_mode: Option<i32>,
    #[prost(uint32, optional, tag = "35")]
    pub(super) ghost_limit: Option<u32>,
    #[prost(string, repeated, tag = "37")]
    pub(super) external: Vec<String>,
    #[prost(uint32, optional, tag = "38")]
    pub(super) empty_ns: Option<u32>,
    #[prost(message, repeated, tag = "39")]
    pub(super) join_ns: Vec<JoinNamespace>,
    #[prost(string, optional, tag = "44")]
    pub(super) freeze_cgroup: Option<String>,
    #[prost(bool, optional, tag = "46")]
    pub(super) tcp_skip_in_flight: Option<bool>,
    #[prost(bool, optional, tag = "48")]
    pub(super) lazy_pages: Option<bool>,
    #[prost(int32, optional, tag = "49")]
    pub(super) status_fd: Option<i32>,
    #[prost(bool, optional, tag = "50")]
    pub(super) orphan_pts_master: Option<bool>,
    #[prost(string, optional, tag = "51")]
    pub(super) config_file: Option<String>,
    #[prost(bool, optional, tag = "52")]
    pub(super) tcp_close: Option<bool>,
    #[prost(string, optional, tag = "53")]
    pub(super) lsm_profile: Option<String>,
    #[prost(string, optional, tag = "60")]
    pub(super) cgroup_yard: Option<String>,
    #[prost(string, optional, tag = "63")]
    pub(super) lsm_mount_context: Option<String>,
    #[prost(enumeration = "NetworkLock", optional, tag = "64")]
    pub(super) network_lock: Option<i32>,
}

/// What kernel and criu together can do (`criu_features`).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Features {
    #[prost(bool, optional, tag = "1")]
    pub(super) mem_track: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub(super) lazy_pages: Option<bool>,
}

/// What hull sends (`criu_req`).
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub(super) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) options: Option<Options>,
    #[prost(bool, optional, tag = "3")]
    pub(super) notify_success: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub(super) keep_open: Option<bool>,
    #[prost(message, optional, tag = "5")]
    pub(super) features: Option<Features>,
}

/// The answer to a restore (`criu_restore_resp`).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Restored {
    #[prost(int32, required, tag = "1")]
    pub(super) pid: i32,
}

/// How far criu is (`criu_notify`).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Notice {
    #[prost(string, optional, tag = "1")]
    pub(super) script: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub(super) pid: Option<i32>,
}

/// criu's version (`criu_version`).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Version {
    #[prost(int32, required, tag = "1")]
    pub(super) major: i32,
    #[prost(int32, required, tag = "2")]
    pub(super) minor: i32,
    #[prost(int32, optional, tag = "4")]
    pub(super) sublevel: Option<i32>,
}

/// What criu sends (`criu_resp`).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Response {
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub(super) kind: i32,
    #[prost(bool, required, tag = "2")]
    pub(super) success: bool,
    #[prost(message, optional, tag = "4")]
    pub(super) restore: Option<Restored>,
    #[prost(message, optional, tag = "5")]
    pub(super) notify: Option<Notice>,
    #[prost(int32, optional, tag = "7")]
    pub(super) errno: Option<i32>,
    #[prost(message, optional, tag = "8")]
    pub(super) features: Option<Features>,
    #[prost(string, optional, tag = "9")]
    pub(super) message: Option<String>,
    #[prost(message, optional, tag = "10")]
    pub(super) version: Option<Version>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes by hand: field number and wire type in front of each value (protocol buffers,
    /// Encoding).
    #[test]
    fn a_request_is_laid_out_as_the_protocol_says() {
        let options = Options {
            images_dir_fd: 5,
            pid: Some(7),
            ext_mnt: vec![ExternalMount {
                key: "/a".into(),
                value: "/b".into(),
            }],
            ..Options::default()
        };
        let request = Request {
            kind: Kind::Dump as i32,
            options: Some(options),
            ..Request::default()
        };
        let mount = [0x0a, 2, b'/', b'a', 0x12, 2, b'/', b'b'];
        let mut inner = vec![0x08, 5, 0x10, 7, 0xba, 0x01, mount.len() as u8];
        inner.extend(mount);
        let mut whole = vec![0x08, 1, 0x12, inner.len() as u8];
        whole.extend(inner);
        assert_eq!(request.encode_to_vec(), whole);
    }

    #[test]
    fn a_response_is_read() {
        let bytes = [
            0x08, 6, 0x10, 1, 0x2a, 13, 0x0a, 9, b'p', b'o', b's', b't', b'-', b'd', b'u', b'm',
            b'p', 0x10, 42,
        ];
        let response = Response::decode(&bytes[..]).unwrap();
        assert_eq!((response.kind(), response.success), (Kind::Notify, true));
        let notice = response.notify.unwrap();
        assert_eq!(
            (notice.script.as_deref(), notice.pid),
            (Some("post-dump"), Some(42))
        );
    }
}
