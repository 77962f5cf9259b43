from marl.launchers.bench.replay import run


def test_replay_bench_gives_every_measurement():
    rows = {row["name"]: row for row in run(capacity=4096, num_envs=8, batch_size=32, seconds=0.01)}
    assert list(rows) == [
        "replay_insert",
        "replay_adder",
        "replay_sample",
        "replay_sample_prioritized",
        "replay_memory",
    ]
    for row in rows.values():
        assert set(row) == {"name", "value", "unit", "reference", "ratio"}
        assert row["value"] > 0
    assert rows["replay_memory"]["ratio"] <= 1.1
