//! hull's own networks beside the rest of the host: the iptables rules of Docker and Podman,
//! reloads of the firewall, a reboot, the host's resolver and its forwarding switches.

use crate::support::network::{
    EXTERNAL, HOST, World, eventually, ip, links, reaches, rules, run, shell, start,
};
use crate::support::{fixture, plan, until, users};
use serde_json::Value;

tests![
    dockers_and_podmans_iptables_rules_are_untouched,
    the_next_command_follows_a_restart_of_docker,
    the_plan_shows_the_chains_that_are_opened,
    any_command_restores_the_rules,
    added_rules_equal_a_complete_rewrite,
    a_reboot_frees_the_addresses,
    a_local_stub_resolver_is_replaced_by_its_upstream,
    forwarding_is_switched_on_only_where_it_is_needed,
    stats_show_the_network,
];

/// The rules that Docker and Podman's netavark make at their start and for one container each.
const OTHERS: &str = "set -e
for t in iptables ip6tables; do
  $t -t nat -N DOCKER; $t -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
  $t -P FORWARD DROP
  for c in DOCKER DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2 DOCKER-USER; do $t -N $c; done
  $t -A FORWARD -j DOCKER-USER; $t -A FORWARD -j DOCKER-ISOLATION-STAGE-1
  $t -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
  $t -A FORWARD -o docker0 -j DOCKER; $t -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
  $t -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2; $t -A \
  DOCKER-ISOLATION-STAGE-1 -j RETURN
  $t -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP; $t -A DOCKER-ISOLATION-STAGE-2 -j RETURN
  $t -A DOCKER-USER -j RETURN
done
iptables -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
iptables -t nat -A DOCKER ! -i docker0 -p tcp --dport 9443 -j DNAT --to-destination 172.17.0.2:443
iptables -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp --dport 443 -j ACCEPT
iptables -N NETAVARK_FORWARD; iptables -A FORWARD -m comment --comment 'netavark firewall rules' \
-j NETAVARK_FORWARD
iptables -A NETAVARK_FORWARD -d 10.88.0.0/16 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A NETAVARK_FORWARD -s 10.88.0.0/16 -j ACCEPT
iptables -t nat -N NETAVARK-HOSTPORT-DNAT; iptables -t nat -N NETAVARK-HOSTPORT-SETMARK
iptables -t nat -A NETAVARK-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000
iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j NETAVARK-HOSTPORT-DNAT";

/// The rules of Docker and Podman as iptables shows them, without counters.
fn iptables_rules() -> String {
    let text = shell("iptables-save; ip6tables-save").success();
    assert!(!text.stderr.contains("incompatible"), "{}", text.stderr);
    text.stdout
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(" [").next().unwrap().to_owned() + "\n")
        .collect()
}

fn install_others() {
    if shell("command -v iptables").status != 0 {
        skip!("iptables is not installed");
    }
    shell(OTHERS).success();
}

fn dockers_and_podmans_iptables_rules_are_untouched() {
    only_hull!("networks are hull's own");
    let w = World::new();
    install_others();
    let before = (iptables_rules(), rules());
    let (server, client) = (w.server(), w.bundle("sleep 1000"));
    let s = start(&server, &["--network", "default", "-p", "8080:80"]);
    let c = start(&client, &["--network", "default"]);
    for address in HOST {
        assert_eq!(
            eventually("external", || w.external_reaches(address, 8080)),
            server.id
        );
    }
    assert_eq!(
        eventually("neighbour", || reaches(&c, &server.id, 80)),
        server.id
    );
    for address in EXTERNAL {
        c.exec(&["busybox", "ping", "-c", "1", "-W", "3", address])
            .success();
    }
    let meanwhile = iptables_rules();
    let added: Vec<&str> = meanwhile
        .lines()
        .filter(|line| !before.0.contains(line))
        .collect();
    assert_eq!(added.len(), 4, "{added:#?}");
    assert!(
        added.iter().all(|line| line.starts_with("-A DOCKER-USER -")
            && line.contains("--comment \"hull")
            && line.ends_with("-j ACCEPT")),
        "{added:#?}"
    );
    assert!(
        before.0.lines().all(|line| meanwhile.contains(line)),
        "hull removed a rule of theirs"
    );
    drop((s, c));
    assert_eq!((iptables_rules(), rules()), before);
}

fn the_next_command_follows_a_restart_of_docker() {
    only_hull!("networks are hull's own");
    let w = World::new();
    install_others();
    let (server, other) = (w.server(), w.bundle("true"));
    let _s = start(&server, &["--network", "default", "-p", "8080:80"]);
    eventually("published", || w.external_reaches(HOST[0], 8080));
    shell("iptables -F DOCKER-USER; iptables -A DOCKER-USER -j RETURN").success();
    assert_eq!(
        w.external_reaches(HOST[0], 8080),
        None,
        "Docker's chain drops nothing, and the test proves nothing"
    );
    // A container on the network is enough, though the bridge is the same as before.
    other.run_with(&["--network", "default"]).success();
    eventually("published again", || w.external_reaches(HOST[0], 8080));
}

fn the_plan_shows_the_chains_that_are_opened() {
    only_hull!("networks are hull's own");
    let w = World::new();
    install_others();
    let b = w.bundle("true");
    let before = rules();
    let plan = plan::of(&b, &["--network", "default"]);
    assert_eq!(
        plan::host_step(&plan, "Network")["fields"]["opened"],
        serde_json::json!(["ip filter DOCKER-USER", "ip6 filter DOCKER-USER"])
    );
    let text = b.call(&["plan", "--network", "default", b.dir.to_str().unwrap()]);
    assert_has!(text.success().stdout, "DOCKER-USER");
    assert_eq!(rules(), before);
}

fn any_command_restores_the_rules() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let server = w.server();
    let s = start(&server, &["--network", "default", "-p", "8080:80"]);
    eventually("published", || w.external_reaches(HOST[0], 8080));
    let before = rules();
    for command in [
        &["list"][..],
        &["exec", &server.id, "true"],
        &["network", "inspect", "default"],
        &["stats", "--no-stream", &server.id],
    ] {
        run("nft", "flush ruleset").success();
        w.hull(command).success();
        assert_eq!(rules(), before, "{command:?}");
    }
    eventually("published again", || w.external_reaches(HOST[0], 8080));
    // Without a container, no rules are needed.
    drop(s);
    assert_eq!(rules(), "");
    w.hull(&["list"]).success();
    assert_eq!(rules(), "", "a command made rules for no container");
}

fn added_rules_equal_a_complete_rewrite() {
    only_hull!("networks are hull's own");
    let w = World::new();
    for line in [
        &["network", "create", "blue"][..],
        &["network", "create", "--internal", "inner"],
    ] {
        w.hull(line).success();
    }
    let words = || {
        let mut words: Vec<String> = rules()
            .split_whitespace()
            .map(|word| word.trim_end_matches(',').to_owned())
            .collect();
        words.sort();
        words
    };
    let tables = || run("nft", "-a list tables").success().stdout;
    let bundles: Vec<_> = (0..4).map(|_| w.bundle("sleep 1000")).collect();
    let first = start(&bundles[0], &["--network", "default", "-p", "8080:80"]);
    let before = tables();
    let _second = start(
        &bundles[1],
        &[
            "--network",
            "default",
            "-p",
            "[2001:db8:1::1]:8081-8082:81-82/udp",
        ],
    );
    let _third = start(&bundles[2], &["--network", "blue", "--network", "inner"]);
    assert_eq!(
        tables(),
        before,
        "hull made the tables again for another container"
    );
    let added = words();
    run("nft", "flush ruleset").success();
    w.hull(&["list"]).success();
    assert_eq!(words(), added);
    drop(first);
    let _fourth = start(&bundles[3], &["--network", "inner"]);
    let added = words();
    run("nft", "flush ruleset").success();
    w.hull(&["list"]).success();
    assert_eq!(words(), added);
}

fn a_reboot_frees_the_addresses() {
    only_hull!("networks are hull's own");
    let w = World::new();
    w.hull(&["network", "create", "--subnet", "10.77.0.0/29", "lasting"])
        .success();
    let (server, next) = (w.server(), w.server());
    let s = start(
        &server,
        &["--network", "lasting:ip=10.77.0.3", "-p", "8080:80"],
    );
    let endpoints = w.state().join("@networks/lasting/endpoints");
    let record = std::fs::read_to_string(endpoints.join(&server.id)).unwrap();
    drop(s);
    // The state that a reboot leaves: the networks' directory with the old boot id; no link, no
    // rule, no process.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let old = record
        .replace(boot.trim(), "00000000-0000-4000-8000-000000000000")
        .replace("\"pid\":", "\"pid\":1,\"was\":");
    assert!(old.contains("00000000-0000-4000-8000-000000000000"));
    std::fs::write(endpoints.join(&server.id), old).unwrap();
    std::fs::write(endpoints.join("torn"), "").unwrap();
    std::fs::write(endpoints.join("half~"), "{").unwrap();
    std::fs::write(w.state().join("@networks/applied"), "").unwrap();
    let known = std::fs::read_to_string(w.state().join("@networks/known")).unwrap();
    std::fs::write(
        w.state().join("@networks/known"),
        known.replace(boot.trim(), "00000000-0000-4000-8000-000000000000"),
    )
    .unwrap();
    ip("link del hull-lasting");
    w.hull(&["list"]).success();
    assert_eq!(
        std::fs::read_dir(&endpoints).unwrap().count(),
        0,
        "addresses of the last boot are in use"
    );
    assert_eq!(rules(), "");
    let _n = start(
        &next,
        &["--network", "lasting:ip=10.77.0.3", "-p", "8080:80"],
    );
    eventually("published", || w.external_reaches(HOST[0], 8080));
}

fn a_local_stub_resolver_is_replaced_by_its_upstream() {
    only_hull!("networks are hull's own");
    let w = World::new();
    users::private_mounts();
    let dir = fixture::new_dir("resolver");
    std::fs::write(
        dir.join("stub"),
        "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n",
    )
    .unwrap();
    std::fs::write(
        dir.join("resolv.conf"),
        "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch lan\n",
    )
    .unwrap();
    let bound = format!(
        "mount --bind {0}/stub /etc/resolv.conf && mkdir -p /run/systemd && mount -t tmpfs tmpfs \
            /run/systemd && mkdir /run/systemd/resolve && cp {0}/resolv.conf /run/systemd/resolve/",
        dir.display()
    );
    shell(&bound).success();
    let b = w.bundle("cat /etc/resolv.conf");
    assert_eq!(
        b.run_with(&["--network", "default"]).success().stdout,
        "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch lan\n"
    );
    let asked = b
        .run_with(&[
            "--network",
            "default",
            "--dns",
            "192.0.2.99",
            "--dns-search",
            "test",
        ])
        .success()
        .stdout;
    assert_eq!(asked, "search test\nnameserver 192.0.2.99\n");
    shell("umount /run/systemd; umount /etc/resolv.conf").success();
}

fn forwarding_is_switched_on_only_where_it_is_needed() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let switches = || {
        ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"].map(|key| {
            run("sysctl", &format!("-n {key}"))
                .success()
                .stdout
                .trim()
                .to_owned()
        })
    };
    run("sysctl", "-w net.ipv4.ip_forward=0").success();
    run("sysctl", "-w net.ipv6.conf.all.forwarding=0").success();
    w.hull(&["network", "create", "--internal", "inner"])
        .success();
    w.hull(&["network", "create", "--subnet", "10.77.0.0/24", "four"])
        .success();
    let (first, second) = (w.bundle("sleep 1000"), w.bundle("sleep 1000"));
    let c = start(&first, &["--network", "inner"]);
    assert_eq!(
        switches(),
        ["0", "0"],
        "an internal network forwards nothing"
    );
    for address in EXTERNAL {
        assert!(
            c.exec(&["busybox", "ping", "-c", "1", "-W", "1", address])
                .status
                != 0,
            "an internal network has a way out"
        );
    }
    let _d = start(&second, &["--network", "four"]);
    assert_eq!(switches(), ["1", "0"], "a network of IPv4 forwards IPv4");
    drop(c);
    let _c = start(&first, &["--network", "default"]);
    assert_eq!(switches(), ["1", "1"]);
}

fn stats_show_the_network() {
    only_hull!("networks are hull's own");
    let w = World::new();
    let b = w.bundle("sleep 1000");
    let c = start(&b, &["--network", "default"]);
    let gateway = w.inspect("default")["subnets"][0]["gateway"]
        .as_str()
        .unwrap()
        .to_owned();
    c.exec(&[
        "busybox", "ping", "-c", "3", "-i", "0.1", "-s", "1000", &gateway,
    ])
    .success();
    let rows: Value = serde_json::from_str(
        &w.hull(&["stats", "--no-stream", "--format", "json", &b.id])
            .success()
            .stdout,
    )
    .unwrap();
    let row = rows.as_array().map_or(&rows, |rows| &rows[0]);
    for key in ["net_input", "net_output"] {
        assert!(row[key].as_u64().unwrap_or(0) > 3000, "{key} of {row}");
    }
    drop(c);
    until("the link is gone", || {
        links().iter().all(|link| link.starts_with("hull-"))
    });
}
