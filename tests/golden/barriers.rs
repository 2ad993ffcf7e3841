//! Host steps and container steps have the same barriers in the same order: otherwise one side
//! would wait for the other without end. And other rules that hold for every plan.

use crate::cases::{self, Bundle};
use crate::hosts::ALL;
use hull::step::child::Buffers;
use hull::step::container::{Barrier, Step};
use hull::step::draft::Plan;
use hull::step::host::HostStep;

fn host_barriers(plan: &Plan) -> Vec<Barrier> {
    plan.host
        .iter()
        .filter_map(|placed| {
            if let HostStep::Barrier(kind) = placed.step {
                Some(kind)
            } else {
                None
            }
        })
        .collect()
}

fn container_barriers(plan: &Plan) -> Vec<Barrier> {
    plan.container
        .iter()
        .filter_map(|placed| {
            if let Step::Barrier { kind } = placed.step {
                Some(kind)
            } else {
                None
            }
        })
        .collect()
}

/// Asserts what must hold for every plan: host steps and container steps have the same barriers, in
/// order, and the last two are those of every container.
pub fn check_sides(plan: &Plan, name: &str) {
    let barriers = host_barriers(plan);
    assert_eq!(
        barriers,
        container_barriers(plan),
        "{name}: host steps and container steps have different barriers"
    );
    assert!(
        barriers.ends_with(&[Barrier::Ready, Barrier::Recorded]),
        "{name}: {barriers:?} has another end"
    );
    assert!(
        barriers
            .windows(2)
            .all(|pair| (pair[0] as u8) < pair[1] as u8),
        "{name}: {barriers:?} is out of order"
    );
}

/// Asserts what must hold for every plan of create.
pub fn check(plan: &Plan, name: &str) {
    check_sides(plan, name);
    let position = |wanted: &dyn Fn(&Step) -> bool| {
        plan.container
            .iter()
            .position(|placed| wanted(&placed.step))
    };
    let last_barrier = plan
        .container
        .iter()
        .rposition(|placed| matches!(placed.step, Step::Barrier { .. }));
    if let Some(filter) = position(&|step| matches!(step, Step::Filter { .. })) {
        assert!(
            last_barrier < Some(filter),
            "{name}: a barrier comes after the filter"
        );
    }
    assert!(
        position(&|step| matches!(step, Step::WaitStart {})) > last_barrier,
        "{name}: the wait for start comes before the last barrier"
    );
    // A container without a process can be made too (runtime.md, Start): its start ends it.
    let program = position(&|step| matches!(step, Step::Program { .. } | Step::Exec { .. }));
    let last = plan.container.last().map(|placed| &placed.step);
    assert!(
        program.is_none() || matches!(last, Some(Step::Exec { .. })),
        "{name}: the last step is not the program"
    );
    slots(plan, name);
    Buffers::for_steps(&plan.encode())
        .unwrap_or_else(|_| panic!("{name}: the encoded steps cannot be decoded"));
}

/// Asserts that the host steps fill each slot that a container step uses, and none twice.
fn slots(plan: &Plan, name: &str) {
    let mut filled = vec![0; plan.slots as usize];
    for placed in &plan.host {
        match &placed.step {
            HostStep::Open { slot, .. } => filled[*slot as usize] += 1,
            HostStep::Cgroup { first, .. } => {
                for place in filled.iter_mut().skip(*first as usize).take(tasks(plan)) {
                    *place += 1;
                }
            }
            _ => {}
        }
    }
    assert!(
        filled.iter().all(|count| *count <= 1),
        "{name}: a slot is filled twice: {filled:?}"
    );
    for placed in &plan.container {
        let used = match placed.step {
            Step::Join { slot, .. } | Step::Bind { slot, .. }
                if slot != hull::step::container::slot::NONE =>
            {
                vec![slot]
            }
            Step::Enroll { first, count } => (first..first + count).collect(),
            _ => continue,
        };
        assert!(
            used.iter().all(|slot| filled[*slot as usize] == 1),
            "{name}: {} uses an empty slot of {used:?}",
            placed.step.name()
        );
    }
}

/// The number of cgroup files that the container's process enters.
fn tasks(plan: &Plan) -> usize {
    let enrolled = plan.container.iter().find_map(|placed| {
        if let Step::Enroll { count, .. } = placed.step {
            Some(count as usize)
        } else {
            None
        }
    });
    enrolled.unwrap_or(0)
}

#[test]
fn host_and_container_steps_have_the_same_barriers() {
    let bundle = Bundle::new("barriers");
    let (mut plans, mut refused) = (0, 0);
    for case in cases::configs() {
        for host in ALL {
            match case.compile(host, &bundle) {
                Ok(plan) => {
                    check(&plan, &format!("{} as {}", case.name, host.name()));
                    plans += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    println!(
        "{plans} plans checked; {refused} pairs of config and host are errors \
            (tests/golden/plans/refusals.txt has them)"
    );
    assert!(plans > refused);
}
