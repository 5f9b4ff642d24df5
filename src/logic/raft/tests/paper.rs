//! One test for each claim of the paper (Ongaro and Ousterhout 2014) and of the thesis (Ongaro
//! 2014) that this machine makes its own, named by its section.

use super::lab::Lab;
use super::member::id;
use crate::logic::raft::READS_MAX;
use crate::logic::raft::io::{
    Body, Entry, Input, Members, Message, Output, PROPOSAL_BYTES_MAX, Payload, ProposeError, Write,
};

/// Three members; 1 leads in term 2 with entries 1 and 2, all durable.
fn led(more: &[&str]) -> Lab {
    let mut lab = Lab::after(&["members 1 2 3", "tick 1", "settle"]);
    assert_eq!(lab.leaders(), [1]);
    for command in more {
        lab.text.clear();
        lab.run(command);
    }
    lab
}

/// Members 1, 2 and 3 with these logs behind entry 1.
fn with_logs(logs: [&str; 3]) -> Lab {
    let mut lab = Lab::after(&["members 1 2 3", "stop 1", "stop 2", "stop 3"]);
    for (number, log) in (1..).zip(logs) {
        lab.run(&format!("entries {number} {log}"));
        lab.run(&format!("start {number}"));
    }
    lab
}

#[test]
fn paper_5_1_terms_never_go_down_and_a_stale_leader_learns_of_a_newer_one() {
    let mut lab = led(&["say 2 1 9 heartbeat 2"]);
    assert_eq!(lab.raft(2).term(), 9);
    lab.run("say 2 1 3 heartbeat 2");
    assert_eq!(lab.raft(2).term(), 9);
    assert!(lab.text.contains("2 to 1: t9 heartbeat reply"), "{}", lab.text);
    lab.run("deliver");
    assert_eq!((lab.leaders(), lab.raft(1).term()), (vec![], 9));
}

#[test]
fn paper_5_2_one_vote_in_a_term_also_after_a_restart() {
    let mut lab = led(&["advance 900", "say 2 3 7 vote 9/9", "persist 2"]);
    assert!(lab.text.contains("2 to 3: t7 vote granted"));
    for again in ["say 2 1 7 vote 9/9", "stop 2", "start 2", "say 2 1 7 vote 9/9", "persist 2"] {
        lab.run(again);
    }
    assert!(!lab.text.contains("2 to 1: t7 vote granted"), "{}", lab.text);
    lab.text.clear();
    lab.run("say 2 3 7 vote 9/9");
    assert!(lab.text.contains("2 to 3: t7 vote granted"), "the same candidate asks again");
}

#[test]
fn paper_5_2_a_vote_leaves_only_when_it_is_durable() {
    let mut lab = led(&["advance 900", "say 2 3 7 vote 9/9"]);
    assert!(!lab.text.contains("granted"));
    lab.run("persist 2");
    assert!(lab.text.contains("2 to 3: t7 vote granted"));
}

#[test]
fn paper_5_2_a_candidate_needs_a_majority_and_its_own_durable_vote() {
    let mut lab = Lab::after(&["members 1 2 3 4 5", "tick 1", "deliver", "deliver", "deliver"]);
    lab.run("persist 2");
    lab.run("persist 3");
    lab.run("persist 4");
    lab.run("deliver");
    assert_eq!(lab.leaders(), [] as [u64; 0], "its own vote is not durable");
    lab.run("persist 1");
    assert_eq!(lab.leaders(), [1]);
    let mut lab = Lab::after(&["members 1 2 3 4 5", "tick 1", "deliver", "deliver", "deliver"]);
    for command in ["persist 1", "persist 2", "deliver"] {
        lab.run(command);
    }
    assert_eq!(lab.leaders(), [] as [u64; 0], "two of five");
    lab.run("persist 3");
    lab.run("deliver");
    assert_eq!(lab.leaders(), [1]);
}

#[test]
fn paper_5_2_a_candidate_follows_a_leader_of_its_term() {
    let mut lab = Lab::after(&["members 1 2 3", "tick 1", "deliver", "deliver"]);
    assert_eq!(lab.raft(1).term(), 2);
    lab.run("say 1 3 2 heartbeat 1");
    lab.run("settle");
    assert_eq!(lab.leaders(), [] as [u64; 0]);
    assert_eq!(lab.raft(1).leader().map(|it| it.0.0), Some(3));
}

#[test]
fn paper_5_2_timeouts_differ_and_are_drawn_anew() {
    let mut lab = Lab::after(&["members 1 2 3"]);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        for number in 1..=3 {
            lab.run(&format!("say {number} {} 1 heartbeat 1", number % 3 + 1));
            let wait = lab.raft(number).deadline().expect("a follower waits").0 - lab_now(&lab);
            assert!((400_000..=800_000).contains(&wait), "{wait}");
            seen.insert(wait);
        }
    }
    assert!(seen.len() > 50, "{seen:?}");
}

fn lab_now(lab: &Lab) -> u64 {
    lab.now.0
}

#[test]
fn paper_5_3_an_entry_is_committed_once_a_majority_has_it_durable() {
    let mut lab = led(&["propose 1 a", "deliver", "persist 2", "deliver"]);
    assert_eq!(lab.raft(1).commit(), 2, "the leader's own log counts only when it is durable");
    lab.run("persist 1");
    assert_eq!(lab.raft(1).commit(), 3);
    let mut lab = led(&["propose 1 a", "persist 1"]);
    assert_eq!(lab.raft(1).commit(), 2, "one of three");
    for command in ["deliver", "persist 3", "deliver"] {
        lab.run(command);
    }
    assert_eq!(lab.raft(1).commit(), 3);
}

#[test]
fn paper_5_3_an_acknowledgement_leaves_only_when_the_entries_are_durable() {
    let mut lab = led(&["propose 1 a", "deliver"]);
    assert!(!lab.text.contains("append ok"));
    lab.run("persist 2");
    assert!(lab.text.contains("2 to 1: t2 append ok 3"));
}

#[test]
fn paper_5_3_a_follower_refuses_what_does_not_follow() {
    let mut lab = led(&["say 2 1 2 append 3/2 4/2"]);
    assert!(lab.text.contains("append rejected 3"));
    assert_eq!(lab.log(2), "1/1 2/2");
}

#[test]
fn paper_5_3_figure_7_every_follower_ends_with_the_leaders_log() {
    // The leader's, and the six followers' of figure 7, behind entry 1.
    let leader = "2/1 3/1 4/4 5/4 6/5 7/5 8/6 9/6 10/6";
    let followers = [
        "2/1 3/1 4/4 5/4 6/5 7/5 8/6 9/6",
        "2/1 3/1 4/4",
        "2/1 3/1 4/4 5/4 6/5 7/5 8/6 9/6 10/6 11/6",
        "2/1 3/1 4/4 5/4 6/5 7/5 8/6 9/6 10/6 11/7 12/7",
        "2/1 3/1 4/4 5/4 6/4 7/4",
        "2/1 3/1 4/2 5/2 6/2 7/3 8/3 9/3 10/3 11/3",
    ];
    for follower in followers {
        let mut lab = with_logs([leader, leader, follower]);
        for number in 1..=3 {
            lab.run(&format!("stop {number}"));
        }
        // The new leader's term is 8, as in the figure.
        for number in 1..=2 {
            lab.member(number).disk.hard.term = 7;
            lab.run(&format!("start {number}"));
        }
        for command in ["tick 1", "settle"] {
            lab.run(command);
        }
        assert_eq!((lab.leaders(), lab.raft(1).term()), (vec![1], 8));
        for command in ["start 3", "advance 300", "tick 1", "settle"] {
            lab.run(command);
        }
        let all = format!("1/1 {leader} 11/8");
        assert_eq!((lab.log(1), lab.log(3)), (all.clone(), all), "{follower}");
    }
}

#[test]
fn paper_5_3_an_append_that_comes_late_cuts_nothing() {
    let mut lab = led(&["propose 1 a", "propose 1 b", "settle"]);
    lab.run("say 2 1 2 append 2/2 3/2");
    assert_eq!(lab.log(2), "1/1 2/2 3/2 4/2");
    assert!(lab.text.contains("2 to 1: t2 append ok 4"), "{}", lab.text);
}

#[test]
fn paper_5_4_1_no_vote_for_a_log_that_is_behind() {
    let table = [("3/3", true), ("4/3", true), ("2/4", true), ("2/3", false), ("9/2", false)];
    for (last, granted) in table {
        let mut lab = with_logs(["2/2 3/3", "2/2 3/3", "2/2 3/3"]);
        lab.run(&format!("say 2 3 9 vote {last}"));
        lab.run("persist 2");
        assert_eq!(lab.text.contains("2 to 3: t9 vote granted"), granted, "{last}");
    }
}

#[test]
fn paper_5_4_2_figure_8_an_old_terms_entry_is_not_committed_by_counting() {
    let mut lab = with_logs(["2/2", "2/2", ""]);
    for command in ["tick 1", "settle"] {
        lab.run(command);
    }
    assert_eq!((lab.leaders(), lab.raft(1).term()), (vec![1], 3));
    let mut lab = with_logs(["2/2", "2/2", ""]);
    for command in ["tick 1", "deliver", "deliver", "deliver", "persist", "deliver", "lose"] {
        lab.run(command);
    }
    lab.run("persist 1");
    lab.run("say 1 2 3 ok 2");
    assert_eq!(lab.raft(1).commit(), 1, "on a majority, but of term 2");
    lab.run("say 1 2 3 ok 3");
    assert_eq!(lab.raft(1).commit(), 3);
}

#[test]
fn paper_5_5_what_is_repeated_changes_nothing() {
    let mut lab = led(&["propose 1 a", "repeat 1>2", "repeat 1>3", "settle"]);
    assert_eq!((lab.log(2), lab.log(3)), ("1/1 2/2 3/2".into(), "1/1 2/2 3/2".into()));
    assert_eq!(lab.raft(1).commit(), 3);
}

#[test]
fn paper_7_a_snapshot_takes_the_place_of_the_log_and_carries_the_members() {
    let mut lab = led(&["stop 3", "bytes 1 300000", "bytes 1 300000", "lose 1>3", "settle"]);
    for command in ["save 1", "start 3", "advance 200", "tick 1", "settle", "give 1 3 600000"] {
        lab.run(command);
    }
    lab.run("settle");
    assert_eq!(lab.raft(3).first_index(), 5);
    assert_eq!((lab.raft(3).commit(), lab.member(3).applied), (4, 4));
    let state = lab.member(1).state;
    assert_eq!(lab.member(3).state, state);
    for command in ["stop 3", "start 3"] {
        lab.run(command);
    }
    assert_eq!(lab.raft(3).members().voters.len(), 3);
}

#[test]
fn paper_7_a_joiner_knows_the_members_from_the_snapshot() {
    let mut lab = led(&["bytes 1 300000", "bytes 1 300000", "settle", "save 1", "add 1 4"]);
    for command in ["settle", "fresh 4", "advance 200", "tick 1", "settle", "give 1 4 9"] {
        lab.run(command);
    }
    lab.run("deliver");
    lab.run("persist 4");
    assert_eq!((lab.raft(4).first_index(), lab.raft(4).last_index()), (6, 5));
    assert!(lab.raft(4).members().learners.contains(&id(4)));
    assert_eq!(lab.raft(4).members().voters.len(), 3);
}

#[test]
fn a_snapshot_whose_checksum_is_wrong_is_asked_for_anew() {
    for (checksum, whole) in [(crc32fast::hash(b"12345678"), true), (7, false)] {
        let mut lab = led(&[]);
        let body = Body::Snapshot {
            index: 9,
            term: 2,
            members: Members::sole(id(1)),
            offset: 0,
            total: 8,
            checksum,
            piece: b"12345678".to_vec(),
        };
        let (now, message) = (lab.now, Message { epoch: 1, term: 2, body });
        let out = lab.member(2).step(now, Input::Message { from: id(1), message });
        let writes = out.iter().any(|it| matches!(it, Output::Persist { .. }));
        let again = Body::SnapshotReply { index: 9, offset: 0 };
        let asks =
            |it: &Output| matches!(it, Output::Send { message, .. } if message.body == again);
        assert_eq!((writes, out.iter().any(asks)), (whole, !whole));
    }
}

#[test]
fn nothing_that_is_not_durable_is_compacted() {
    let mut lab = led(&["bytes 1 300000", "bytes 1 300000", "deliver", "persist 2", "persist 3"]);
    lab.run("deliver");
    assert_eq!((lab.raft(1).commit(), lab.raft(1).durable_index()), (4, 2));
    lab.raft(1).compact(4);
    assert!(lab.raft(1).first_index() <= 3, "the disk still needs entry 3");
    lab.run("persist 1");
    lab.raft(1).compact(4);
    assert_eq!(lab.raft(1).first_index(), 5);
}

#[test]
fn what_a_snapshot_needs_behind_it_is_kept_while_it_is_sent() {
    let mut lab = led(&["stop 3", "bytes 1 300000", "bytes 1 300000", "lose 1>3", "settle"]);
    for command in ["save 1", "start 3", "advance 200", "tick 1", "settle", "give 1 3 600000"] {
        lab.run(command);
    }
    for command in ["bytes 1 300000", "bytes 1 300000", "deliver 1>2", "persist", "deliver 2>1"] {
        lab.run(command);
    }
    assert_eq!(lab.raft(1).commit(), 6);
    lab.raft(1).compact(6);
    assert_eq!(lab.raft(1).first_index(), 5);
    lab.run("settle");
    lab.run("settle");
    assert_eq!(lab.log(3), "5/2 6/2");
    lab.run("advance 100");
    lab.run("tick 1");
    lab.raft(1).compact(6);
    assert_eq!(lab.raft(1).first_index(), 7, "nobody gets it any more");
}

#[test]
fn a_follower_whose_disk_stands_still_takes_only_so_much() {
    let mut lab = led(&[]);
    let now = lab.now;
    for index in 3..60 {
        let payload = Payload::Command(vec![0; PROPOSAL_BYTES_MAX].into());
        let entries = vec![Entry { index, term: 2, payload }];
        let (previous_index, previous_term) = (index - 1, 2);
        let body = Body::Append { previous_index, previous_term, entries, commit: 0 };
        let message = Message { epoch: 1, term: 2, body };
        lab.member(2).step(now, Input::Message { from: id(1), message });
    }
    assert_eq!(lab.raft(2).last_index(), 45, "64 MiB and one entry");
    lab.run("persist 2");
    assert_eq!(lab.raft(2).durable_index(), 45);
}

#[test]
fn a_demoted_member_is_not_told_to_have_caught_up() {
    let mut lab = led(&["demote 1 3"]);
    lab.run("settle");
    assert!(!lab.text.contains("caught up"), "nobody asked for its vote back: {}", lab.text);
}

#[test]
fn a_candidate_asks_with_the_durable_end_of_its_log() {
    // It may crash and ask again in the same term: an old grant must still hold.
    let mut lab = led(&["propose 1 a", "deliver", "lose", "advance 900", "tick 2"]);
    assert_eq!(lab.raft(2).last_index(), 3);
    assert!(lab.text.contains("2 to 3: t3 pre-vote last 2/2"), "{}", lab.text);
    for command in ["deliver", "deliver"] {
        lab.run(command);
    }
    assert!(!lab.text.contains("vote last 3/2"));
}

#[test]
fn paper_8_a_leader_reads_only_after_an_entry_of_its_own_term() {
    let mut lab = Lab::after(&["members 1 2 3", "tick 1", "deliver", "deliver", "deliver"]);
    for command in ["persist", "deliver", "read 1 5", "deliver", "deliver"] {
        lab.run(command);
    }
    assert_eq!(lab.leaders(), [1]);
    assert!(!lab.text.contains("read 5 at"), "confirmed, but nothing of term 2 is committed");
    lab.run("settle");
    assert!(lab.text.contains("1 read 5 at 2"));
}

#[test]
fn paper_8_a_read_needs_a_majority_that_still_follows() {
    let lab = led(&["read 1 5", "lose 1>2", "settle"]);
    assert!(lab.text.contains("1 read 5 at 2"), "one follower is enough");
    let lab = led(&["read 1 5", "lose", "settle", "advance 800", "tick 1"]);
    assert!(lab.text.contains("1 read 5 failed"), "{}", lab.text);
}

#[test]
fn thesis_3_10_leadership_is_handed_over_with_the_whole_log() {
    let mut lab = led(&["propose 1 a", "transfer 1 3"]);
    assert!(!lab.text.contains("timeout now"), "3 lacks the entry");
    assert_eq!(
        lab.raft(1).propose(crate::base::time::Time(0), [0].as_slice().into()),
        Err(ProposeError::Transferring)
    );
    lab.run("settle");
    assert_eq!(lab.leaders(), [3]);
}

#[test]
fn thesis_4_1_one_change_at_a_time_and_from_the_entry_on() {
    let mut lab = led(&["add 1 4"]);
    assert!(lab.raft(1).members().contains(id(4)), "before it is committed");
    lab.run("add 1 5");
    assert!(lab.text.contains("another change"));
    lab.run("settle");
    lab.run("add 1 5");
    assert!(lab.raft(1).members().contains(id(5)));
}

#[test]
fn thesis_4_1_corrected_no_change_before_an_entry_of_the_own_term_is_committed() {
    let mut lab = Lab::after(&["members 1 2 3", "tick 1", "deliver", "deliver", "deliver"]);
    for command in ["persist", "deliver", "add 1 4"] {
        lab.run(command);
    }
    assert_eq!(lab.leaders(), [1]);
    assert!(lab.text.contains("another change"), "{}", lab.text);
}

#[test]
fn thesis_4_2_2_a_leader_that_removes_itself_leads_until_that_is_committed() {
    let mut lab = led(&["remove 1 1"]);
    assert_eq!(lab.leaders(), [1]);
    lab.run("persist 1");
    lab.run("deliver");
    lab.run("persist 2");
    lab.run("deliver");
    assert_eq!(lab.leaders(), [1], "one of the two that are left; its own log does not count");
    lab.run("settle");
    assert!(lab.text.contains("1 removed"));
    assert!(!lab.leaders().contains(&1) && lab.leaders().len() == 1, "handed over");
}

#[test]
fn thesis_4_2_3_a_removed_member_disturbs_nobody() {
    let mut lab = led(&["say 2 3 9 vote 9/9", "say 1 3 9 vote 9/9"]);
    assert_eq!((lab.leaders(), lab.raft(2).term()), (vec![1], 2));
}

#[test]
fn thesis_6_2_a_leader_that_nobody_answers_steps_down() {
    let lab = led(&["advance 799", "tick 1"]);
    assert_eq!(lab.leaders(), [1]);
    let lab = led(&["advance 900", "tick 1"]);
    assert_eq!(lab.leaders(), [] as [u64; 0]);
}

#[test]
fn thesis_9_6_a_pre_vote_changes_no_term() {
    let mut lab = led(&["advance 900", "tick 3"]);
    let before = (lab.raft(3).term(), lab.raft(2).term());
    lab.run("deliver 3>2");
    assert!(lab.text.contains("2 to 3: t3 pre-vote granted"));
    assert_eq!((before, lab.raft(2).term()), ((2, 2), 2));
    assert!(lab.member(2).under_way.is_empty(), "nothing is written");
}

#[test]
fn who_grants_puts_its_own_campaign_off() {
    for request in ["deliver 3>2", "say 2 3 9 vote 9/9"] {
        let mut lab = led(&["advance 900", "tick 3", request]);
        let wait = lab.raft(2).deadline().expect("a follower waits").0 - lab_now(&lab);
        assert!(wait >= 50_000, "{request}: {wait}");
    }
}

#[test]
fn thesis_10_2_the_leader_sends_and_writes_in_parallel_and_pipelines() {
    let mut lab = led(&["propose 1 a", "propose 1 b", "propose 1 c"]);
    assert_eq!(lab.under_way.len(), 6, "three appends to each of two, no answer yet");
    assert_eq!(lab.member(1).under_way.len(), 3);
    lab.run("settle");
    assert_eq!(lab.raft(1).commit(), 5);
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    let mut lab = led(&["propose 1 a", "settle"]);
    for _ in 0..50 {
        lab.text.clear();
        lab.run("tick 1");
        lab.run("settle");
        assert!(!lab.text.contains("persist"), "{}", lab.text);
    }
    let mut lab = Lab::after(&["fresh 1", "bootstrap 1", "settle", "stop 1", "start 1"]);
    assert_eq!(lab.raft(1).deadline(), None, "a sole voter waits for nothing");
    assert!(lab.member(1).under_way.is_empty(), "and writes nothing when it starts");
}

#[test]
fn what_is_proposed_together_is_one_write() {
    let mut lab = led(&[]);
    let now = lab.now;
    let mut out = Vec::new();
    for byte in 0..5u8 {
        lab.raft(1).propose(now, [byte].as_slice().into()).expect("taken");
    }
    lab.raft(1).flush(now, &mut out);
    lab.member(1).take(&out);
    let writes = &lab.member(1).under_way;
    assert!(
        matches!(writes.front(), Some((_, Write::Log { entries, .. })) if entries.len() == 5),
        "{writes:?}"
    );
}

#[test]
fn limits_refuse_and_change_nothing() {
    let mut lab = led(&[]);
    lab.run(&format!("bytes 1 {}", (3 << 19) + 1));
    assert!(lab.text.contains("the limit is"));
    for _ in 0..20 {
        lab.run("bytes 1 100000");
    }
    assert!(lab.text.contains("too many changes wait"));
    assert_eq!(lab.raft(1).last_index(), 12, "a mebibyte");
    lab.text.clear();
    for number in 0..=READS_MAX {
        lab.run(&format!("read 1 {number}"));
    }
    assert_eq!(lab.text.matches("failed").count(), 1);
}
