//! Made-up hosts and users: the Facts that `Facts::probe` would find there.

use hull::cgroups::tree::{Hierarchy, Tree, Version};
use hull::facts::{Facts, IdHelpers, JoinedNamespace, Owner};
use hull::spec::config::Config;
use oci_spec::runtime::LinuxNamespaceType;

/// A kind of host and user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// root on a host with v1 hierarchies, and a v2 tree with hugetlb only.
    RootHybrid,
    /// root on a host with cgroup v2 only.
    RootUnified,
    /// An ordinary user with newuidmap and newgidmap.
    UserHelped,
    /// An ordinary user without them.
    UserAlone,
    /// root of a user namespace, as which rootless engines call the runtime.
    Nested,
}

/// All of them.
pub const ALL: [Host; 5] = [
    Host::RootHybrid,
    Host::RootUnified,
    Host::UserHelped,
    Host::UserAlone,
    Host::Nested,
];

/// Every capability that kernels up to 6.18 have.
const ALL_CAPABILITIES: u64 = (1 << 41) - 1;

impl Host {
    /// The host's name in file names.
    pub fn name(self) -> &'static str {
        match self {
            Host::RootHybrid => "root-hybrid",
            Host::RootUnified => "root-v2",
            Host::UserHelped => "user-helped",
            Host::UserAlone => "user-alone",
            Host::Nested => "nested",
        }
    }

    /// The user's id, for rootless default configs.
    pub fn id(self) -> u32 {
        match self {
            Host::UserHelped | Host::UserAlone => 1000,
            _ => 0,
        }
    }

    /// The Facts for a config on this host.
    pub fn facts(self, config: &Config) -> Facts {
        let root = Facts {
            hard_limits: [
                (libc::RLIMIT_NOFILE, 1 << 20),
                (libc::RLIMIT_NPROC, 1 << 20),
                (libc::RLIMIT_CORE, u64::MAX),
            ]
            .into(),
            euid: 0,
            egid: 0,
            privileged: true,
            in_user_namespace: false,
            permitted: ALL_CAPABILITIES,
            bounding: ALL_CAPABILITIES,
            last_capability: 40,
            ignored_signals: 0,
            cgroups: unified("/user.slice/session-1.scope", true),
            joined: joined(config),
            id_helpers: None,
            lsm: None,
            kcore: true,
            foreign: None,
        };
        let helpers = IdHelpers {
            uid: "/usr/bin/newuidmap".into(),
            gid: "/usr/bin/newgidmap".into(),
        };
        match self {
            Host::RootHybrid => Facts {
                cgroups: hybrid(),
                ..root
            },
            Host::RootUnified => root,
            Host::UserHelped => Facts {
                id_helpers: Some(helpers),
                ..ordinary(root)
            },
            Host::UserAlone => ordinary(root),
            Host::Nested => Facts {
                in_user_namespace: true,
                cgroups: unified("/user.slice/user-1000.slice/user@1000.service/app", true),
                ..root
            },
        }
    }
}

fn ordinary(root: Facts) -> Facts {
    Facts {
        euid: 1000,
        egid: 1000,
        privileged: false,
        permitted: 0,
        cgroups: unified("/user.slice/user-1000.slice/session-2.scope", false),
        ..root
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn unified(own: &str, writable: bool) -> Tree {
    let controllers = words("cpuset cpu io memory hugetlb pids rdma misc");
    Tree {
        hierarchies: vec![Hierarchy {
            version: Version::V2,
            mount_point: "/sys/fs/cgroup".into(),
            root: "/".into(),
            near_controllers: controllers.clone(),
            controllers,
            own: own.into(),
            writable,
        }],
        ..Tree::default()
    }
}

fn hybrid() -> Tree {
    let v1 = |name: &&str| Hierarchy {
        version: Version::V1,
        mount_point: format!("/sys/fs/cgroup/{name}"),
        root: "/".into(),
        controllers: vec![(*name).to_owned()],
        near_controllers: Vec::new(),
        own: "/".into(),
        writable: true,
    };
    let mut hierarchies: Vec<Hierarchy> = [
        "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
    ]
    .iter()
    .map(v1)
    .collect();
    hierarchies.push(Hierarchy {
        version: Version::V2,
        mount_point: "/sys/fs/cgroup/unified".into(),
        root: "/".into(),
        controllers: words("hugetlb"),
        near_controllers: words("hugetlb"),
        own: "/".into(),
        writable: true,
    });
    Tree {
        hierarchies,
        ..Tree::default()
    }
}

/// The namespaces that the config joins. A joined user namespace owns the others, as in a pod.
fn joined(config: &Config) -> Vec<JoinedNamespace> {
    let Some(linux) = &config.linux else {
        return Vec::new();
    };
    let path = |namespace: &hull::spec::config::Namespace| {
        namespace.path.clone().filter(|path| !path.is_empty())
    };
    let user = linux
        .namespaces
        .iter()
        .any(|n| n.typ == Some(LinuxNamespaceType::User) && path(n).is_some());
    let found = linux.namespaces.iter().filter_map(|namespace| {
        let kind = namespace.typ?;
        let owner = if user && kind != LinuxNamespaceType::User {
            Owner::Joined
        } else {
            Owner::Outer
        };
        Some(JoinedNamespace {
            kind: kind as u32,
            path: path(namespace)?,
            owner,
        })
    });
    found.collect()
}
