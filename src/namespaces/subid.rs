//! The id maps of an unprivileged user's container: the user's own id as 0, followed by the range
//! that the host grants (subuid(5)).

use crate::spec::config::IdMapping;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

/// The id maps of a user namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Maps {
    /// The mappings of user ids.
    pub uid: Vec<IdMapping>,
    /// The mappings of group ids.
    pub gid: Vec<IdMapping>,
}

/// Where the maps put the user's own ids (Podman's `--userns`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// The own ids are the container's root; the ranges follow from 1 on.
    #[default]
    Root,
    /// `keep-id`: the own ids are these of the container; the ranges fill the ids around them.
    Keep {
        /// The user id in the container.
        uid: u32,
        /// The group id in the container.
        gid: u32,
    },
    /// `nomap`: the own ids are not mapped; the ranges begin at 0.
    Unmapped,
}

impl Layout {
    /// The id in the container that stands for the user's own.
    fn own(self, group: bool) -> Option<u32> {
        match self {
            Self::Root => Some(0),
            Self::Keep { uid, gid } => Some(if group { gid } else { uid }),
            Self::Unmapped => None,
        }
    }
}

impl Maps {
    /// The maps that this user may use: with all ranges if both `/etc/subuid` and `/etc/subgid`
    /// grant one and the helpers are usable, a single id otherwise.
    ///
    /// A range that cannot be used is left out with a warning that names its file and line.
    pub fn of_user(uid: u32, gid: u32, layout: Layout) -> Self {
        // newuidmap refuses a user that has no name.
        let ranges = host_name_of(uid)
            .filter(|_| helpers_usable())
            .and_then(|name| {
                let user = Owner { name: &name, uid };
                let uids = granted(&user, &SUBUID, uid);
                let gids = granted(&user, &SUBGID, gid);
                (!uids.is_empty() && !gids.is_empty()).then_some((uids, gids))
            });
        let (uids, gids) = ranges.unwrap_or_default();
        Self {
            uid: lines(layout.own(false), uid, &uids),
            gid: lines(layout.own(true), gid, &gids),
        }
    }

    /// Whether a user id and a group id of the container are mapped.
    pub fn has(&self, uid: u32, gid: u32) -> bool {
        let in_map = |map: &[IdMapping], id: u32| {
            map.iter()
                .any(|m| id >= m.container_id && id - m.container_id < m.size)
        };
        in_map(&self.uid, uid) && in_map(&self.gid, gid)
    }

    /// Whether a group id of the container is mapped.
    pub fn has_group(&self, gid: u32) -> bool {
        self.has(self.uid.first().map_or(0, |map| map.container_id), gid)
    }

    /// Whether only the user's own id is mapped.
    pub fn is_single(&self) -> bool {
        self.gid.len() == 1
    }
}

/// Whose ranges are looked up: subuid(5) takes either.
struct Owner<'a> {
    name: &'a [u8],
    uid: u32,
}

/// A file of subuid(5), and the option by which getsubids(1) prints the same ids.
struct Source {
    file: &'static str,
    option: Option<&'static str>,
}

const SUBUID: Source = Source {
    file: "/etc/subuid",
    option: None,
};
const SUBGID: Source = Source {
    file: "/etc/subgid",
    option: Some("-g"),
};

/// A range of ids of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

impl Range {
    fn overlaps(self, other: Self) -> bool {
        self.first < other.first + other.count && other.first < self.first + self.count
    }
}

/// The kernel takes 340 lines of an id map (user_namespaces(7)); one is the user's own id, and
/// one range may be split by it.
const MOST_RANGES: usize = 338;

/// The lines of a map: the user's own id of the host stands at `own` of the container, where there
/// is one, and the ranges fill the other ids from 0 on.
fn lines(own: Option<u32>, host_own: u32, ranges: &[Range]) -> Vec<IdMapping> {
    let mut own = own.map(|container_id| IdMapping {
        container_id,
        host_id: host_own,
        size: 1,
    });
    let mut maps = Vec::new();
    let mut next = 0_u32;
    for range in ranges.iter().take(MOST_RANGES) {
        let Range {
            mut first,
            mut count,
        } = *range;
        if next.checked_add(count).is_none_or(|end| end == u32::MAX) {
            break;
        }
        if let Some(line) = own.take_if(|line| line.container_id - next <= count) {
            let before = line.container_id - next;
            push(&mut maps, next, first, before);
            next = line.container_id + 1;
            maps.push(line);
            (first, count) = (first + before, count - before);
        }
        push(&mut maps, next, first, count);
        next += count;
    }
    maps.extend(own);
    maps
}

fn push(maps: &mut Vec<IdMapping>, container_id: u32, host_id: u32, size: u32) {
    if size > 0 {
        maps.push(IdMapping {
            container_id,
            host_id,
            size,
        });
    }
}

/// The ranges that the host grants a user: of the file, or, where nsswitch.conf(5) names another
/// source, of getsubids(1), since a static binary cannot load the name service's modules.
fn granted(user: &Owner, source: &Source, own: u32) -> Vec<Range> {
    let text = std::fs::read(source.file).unwrap_or_default();
    let lines = ranges(&text, user).map(|(line, range)| (format!("line {line}"), range));
    let (found, place) = if subid_service() {
        let listed = by_service(user, source).into_iter();
        let named = listed.map(|range| ("getsubids".to_owned(), range));
        (named.collect::<Vec<_>>(), "the name service")
    } else {
        (lines.collect(), source.file)
    };
    let (usable, warnings) = usable(found, own);
    for (line, why) in warnings {
        crate::log::warn(&format!("{place}, {line}: hull leaves out {why}"));
    }
    usable
}

/// The ranges that fit into one map, and for each other the line and the reason.
fn usable(found: Vec<(String, Range)>, own: u32) -> (Vec<Range>, Vec<(String, String)>) {
    let (mut usable, mut warnings) = (Vec::<Range>::new(), Vec::new());
    for (line, range) in found {
        let Range { first, count } = range;
        let shown = format!("the range {first}:{count}");
        if range.overlaps(Range {
            first: own,
            count: 1,
        }) {
            warnings.push((
                line,
                format!("{shown}, which holds the user's own id {own}"),
            ));
        } else if usable.iter().any(|other| other.overlaps(range)) {
            warnings.push((line, format!("{shown}, which overlaps an earlier one")));
        } else {
            usable.push(range);
        }
    }
    (usable, warnings)
}

/// The ranges of a user in the text of a file of subuid(5) with the numbers of their lines, by name
/// or number: each line is `name:first:count`.
fn ranges<'a>(text: &'a [u8], user: &'a Owner<'a>) -> impl Iterator<Item = (usize, Range)> + 'a {
    let number = user.uid.to_string();
    text.split(|byte| *byte == b'\n')
        .enumerate()
        .filter_map(move |(index, line)| {
            let mut fields = line.trim_ascii().split(|byte| *byte == b':');
            let owner = fields.next()?;
            let range = Range {
                first: digits(fields.next()?)?,
                count: digits(fields.next()?)?,
            };
            let own = owner == user.name || owner == number.as_bytes();
            (own && usable_size(range)).then_some((index + 1, range))
        })
}

fn usable_size(range: Range) -> bool {
    range.count > 0 && range.first.checked_add(range.count).is_some()
}

fn digits(bytes: &[u8]) -> Option<u32> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Whether `subid:` of nsswitch.conf(5) names another source than the files: then they do not
/// count.
fn subid_service() -> bool {
    let text = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("subid:"))
        .any(|sources| sources.split_whitespace().any(|source| source != "files"))
}

/// The ranges that getsubids(1) prints: lines of `index: name first count`.
fn by_service(user: &Owner, source: &Source) -> Vec<Range> {
    let mut arguments: Vec<&OsStr> = source.option.iter().map(OsStr::new).collect();
    arguments.push(OsStr::from_bytes(user.name));
    let text = output("getsubids", &arguments).unwrap_or_default();
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.trim_ascii().rsplit(|byte| *byte == b' ');
            let count = digits(fields.next()?)?;
            let first = digits(fields.next()?)?;
            Some(Range { first, count }).filter(|range| usable_size(*range))
        })
        .collect()
}

/// The name of a user of the host: of `/etc/passwd`, else of getent(1), which asks the name service
/// (LDAP, sssd, userdb).
fn host_name_of(uid: u32) -> Option<Vec<u8>> {
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    name_in(&passwd, uid).or_else(|| {
        let listed = output("getent", &["passwd".as_ref(), uid.to_string().as_ref()])?;
        name_in(&listed, uid)
    })
}

/// The name of a user in text of passwd(5), which need not be UTF-8.
fn name_in(passwd: &[u8], uid: u32) -> Option<Vec<u8>> {
    let number = uid.to_string();
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next()?;
        (fields.nth(1)? == number.as_bytes()).then(|| name.to_owned())
    })
}

/// What a program of the host prints, where it is installed and succeeds.
fn output(program: &str, arguments: &[&OsStr]) -> Option<Vec<u8>> {
    let path = crate::sys::search::in_path_or_sbin(program)?;
    let output = Command::new(path).args(arguments).output().ok()?;
    output.status.success().then_some(output.stdout)
}

/// Whether newuidmap(1) and newgidmap(1) are installed and usable: they gain their privilege at
/// execve(2), which no_new_privs forbids.
fn helpers_usable() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bound = status
        .lines()
        .any(|line| line.split_whitespace().eq(["NoNewPrivs:", "1"]));
    let installed = |name: &str| crate::sys::search::in_path(name).is_some();
    !bound && installed("newuidmap") && installed("newgidmap")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u32, count: u32) -> Range {
        Range { first, count }
    }

    #[test]
    fn all_ranges_of_a_user_are_found_by_name_or_number() {
        let text = b"bob:100000:65536\nada:165536:65536\nada:900000:5\n1001:231072:10\nbroken\n\
            zoe:4294967290:100\nf\xfcr:7000:10\n1000:70:2";
        let of =
            |name: &[u8], uid| ranges(text, &Owner { name, uid }).collect::<Vec<(usize, Range)>>();
        let both = [
            (2, range(165_536, 65_536)),
            (3, range(900_000, 5)),
            (8, range(70, 2)),
        ];
        assert_eq!(of(b"ada", 1000), both);
        assert_eq!(of(b"eve", 1001), [(4, range(231_072, 10))]);
        assert_eq!(of(b"eve", 1002), []);
        assert_eq!(of(b"zoe", 1003), []);
        assert_eq!(of(b"f\xfcr", 1004), [(7, range(7000, 10))]);
    }

    #[test]
    fn a_range_with_the_own_id_or_an_overlap_is_left_out_and_named() {
        let found = [
            range(500, 1000),
            range(2000, 10),
            range(2005, 10),
            range(3000, 1),
        ];
        let numbered = found.iter().enumerate();
        let lines = numbered
            .map(|(n, range)| (format!("line {n}"), *range))
            .collect();
        let (usable, warnings) = usable(lines, 1000);
        assert_eq!(usable, [range(2000, 10), range(3000, 1)]);
        let lines: Vec<&str> = warnings.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(lines, ["line 0", "line 2"]);
        assert!(warnings[0].1.contains("own id 1000"));
    }

    #[test]
    fn users_are_named_by_passwd_text_of_any_bytes() {
        let passwd = b"root:x:0:0::/:/bin/sh\nf\xfcr:x:1004:1004::/:/bin/sh\n";
        assert_eq!(name_in(passwd, 1004), Some(b"f\xfcr".to_vec()));
        assert_eq!(name_in(passwd, 100), None);
    }

    /// Lines as `(container, host, size)`.
    fn shown(own: Option<u32>, ranges: &[Range]) -> Vec<[u32; 3]> {
        let maps = lines(own, 1000, ranges).into_iter();
        maps.map(|line| [line.container_id, line.host_id, line.size])
            .collect()
    }

    #[test]
    fn the_own_id_stands_where_it_was_asked_for_and_ranges_fill_the_rest() {
        let ranges = [range(100_000, 10), range(200_000, 5)];
        let root = [[0, 1000, 1], [1, 100_000, 10], [11, 200_000, 5]];
        assert_eq!(shown(Some(0), &ranges), root);
        assert_eq!(shown(None, &ranges), [[0, 100_000, 10], [10, 200_000, 5]]);
        let split = [
            [0, 100_000, 3],
            [3, 1000, 1],
            [4, 100_003, 7],
            [11, 200_000, 5],
        ];
        assert_eq!(shown(Some(3), &ranges), split);
        let between = [[0, 100_000, 10], [10, 1000, 1], [11, 200_000, 5]];
        assert_eq!(shown(Some(10), &ranges), between);
        let after = [[0, 100_000, 10], [10, 200_000, 5], [1000, 1000, 1]];
        assert_eq!(shown(Some(1000), &ranges), after);
        assert_eq!(shown(Some(0), &[]), [[0, 1000, 1]]);
    }

    #[test]
    fn mapped_ids_are_those_of_all_lines() {
        let maps = Maps {
            uid: lines(Some(0), 1000, &[range(100_000, 10), range(200_000, 5)]),
            gid: lines(Some(0), 1000, &[]),
        };
        assert!(maps.has(0, 0) && maps.has(15, 0));
        assert!(!maps.has(16, 0) && !maps.has(0, 1));
    }
}
