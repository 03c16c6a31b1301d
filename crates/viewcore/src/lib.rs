//! The viewleader's state machine, the placement planner and the failure-detection rules, pure.
