"""The mean of checkpoints is the mean of their weights, and a checkpoint like any other."""

import pytest
import torch
from checkpoint_cases import make_checkpoint
from console import generate, hypotheses, refused, run

from fairseq_taskmoe.checkpoint.average import average
from fairseq_taskmoe.errors import Refusal


def save(folder, number, **overrides):
    """Write checkpoints of models of random weights."""
    paths = []
    for n in range(number):
        torch.manual_seed(n)
        _, _, checkpoint = make_checkpoint(**overrides)
        checkpoint["last_optimizer_state"] = {"state": n}
        paths.append(str(folder / f"{len(list(folder.iterdir()))}.pt"))
        torch.save(checkpoint, paths[-1])
    return paths


@pytest.mark.parametrize("routers", [("token", "token"), ("target", "static")])
def test_every_weight_is_the_mean(routers, tmp_path):
    paths = save(tmp_path, 3, encoder=routers[0], decoder=routers[1], share_all_embeddings=True)
    average(paths, str(tmp_path / "mean.pt"))
    states = [torch.load(path)["model"] for path in paths]
    mean = torch.load(tmp_path / "mean.pt")
    assert mean["model"].keys() == states[0].keys() and mean["last_optimizer_state"] is None
    assert any(".experts." in name for name in mean["model"])
    for name, tensor in mean["model"].items():
        expected = torch.stack([state[name].double() for state in states]).mean(dim=0)
        torch.testing.assert_close(tensor, expected.float(), rtol=1e-6, atol=1e-7)
    embeddings = [name for name in mean["model"] if name.endswith("embed_tokens.weight")]
    assert len({mean["model"][name].data_ptr() for name in embeddings}) == 1


def test_the_mean_of_one_is_itself(tmp_path):
    (path,) = save(tmp_path, 1)
    average([path], str(tmp_path / "mean.pt"))
    same, own = torch.load(tmp_path / "mean.pt")["model"], torch.load(path)["model"]
    torch.testing.assert_close(same, own, rtol=0, atol=0)


def test_other_models_are_refused(tmp_path):
    first, *_ = save(tmp_path, 1)
    (other,) = save(tmp_path, 1, moe_expert_count=4)
    with pytest.raises(Refusal, match="another model than .*experts.fc1.bias differs"):
        average([first, other], str(tmp_path / "mean.pt"))
    with pytest.raises(Refusal, match="exists; nothing was overwritten"):
        average([first], first)
    changed = torch.load(first)
    changed["cfg"]["model"]["moe_top_k"] = 1
    torch.save(changed, tmp_path / "top1.pt")
    with pytest.raises(Refusal, match="--moe-top-k 1 instead of 2"):
        average([first, str(tmp_path / "top1.pt")], str(tmp_path / "mean.pt"))
    changed = torch.load(first)
    changed["task_state"]["words"][7] = "other"
    torch.save(changed, tmp_path / "words.pt")
    with pytest.raises(Refusal, match="trained with other words"):
        average([first, str(tmp_path / "words.pt")], str(tmp_path / "mean.pt"))
    assert not (tmp_path / "mean.pt").exists()


def test_fairseq_translates_with_it(train, corpus, tmp_path):
    checkpoint = train("for-evaluate", "--max-update", 5)
    out = tmp_path / "mean.pt"
    run("taskmoe", "average", checkpoint, checkpoint, "--out", out)
    own, mean = (generate(corpus.data, "en-de", path, "--beam", 1) for path in (checkpoint, out))
    assert hypotheses(mean.stdout) == hypotheses(own.stdout)
    again = run("taskmoe", "average", tmp_path / "no.pt", "--out", tmp_path / "x.pt", check=False)
    assert "no.pt: no such checkpoint" in refused(again)
