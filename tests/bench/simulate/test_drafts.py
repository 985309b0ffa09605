"""How drafts fare is drawn as the table says, scaled as asked, and read back as it was recorded."""

import numpy as np
import pytest

from bench.simulate.drafts import Texts, draw_texts, modelled_texts, read_recorded, read_texts, rescaled
from bench.simulate.record import write_recording
from bench.simulate.settings import Acceptance, Drafting
from core.errors import ConfigError
from core.planning import Calibration


def hazards(texts):
    """Chance at each position that a draft is accepted whose predecessors were."""
    counts = texts.accepted
    return np.array([(counts > j).sum() / (counts >= j).sum() for j in range(texts.width)])


@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_drafts_are_accepted_as_often_as_the_table_says(spread):
    law = Drafting(accept=(0.8, 0.7, 0.6), spread=spread)
    assert hazards(draw_texts({"math": law}, seed=0)) == pytest.approx(law.accept, abs=0.02)


def test_evidence_tells_good_drafts_from_bad_ones_where_texts_differ():
    texts = draw_texts({"math": Drafting(accept=(0.7, 0.7), spread=1.5, confidence=0.0)}, seed=0)
    first = texts.evidence[..., 0]
    assert first[texts.accepted > 0].mean() > first[texts.accepted == 0].mean() + 1.0


@pytest.mark.parametrize("scale", [0.8, 0.9, 1.1])
def test_scaled_acceptance_is_that_much_more_or_less_at_every_position(scale):
    texts = draw_texts({"math": Drafting(accept=(0.7, 0.6, 0.5))}, seed=0)
    assert hazards(rescaled(texts, scale, 0)) == pytest.approx(scale * hazards(texts), rel=0.03)


def test_scaling_up_ends_at_certainty():
    assert hazards(rescaled(modelled_texts(), 2.0, 0)) == pytest.approx(1.0, abs=0.001)


def test_texts_begin_anew_when_they_are_over():
    texts = modelled_texts()
    ours, theirs = texts.look_up([3, 3], [5, 5 + 256]), texts.look_up([3], [5])
    assert ours[0].tolist() == [theirs[0][0]] * 2


def test_what_is_recorded_is_read_back(tmp_path):
    drawn = draw_texts({"a": Drafting(accept=(0.7,)), "b": Drafting(accept=(0.5,))}, seed=0)
    size = len(drawn.accepted)
    texts = Texts(
        *(drawn.accepted, drawn.evidence, drawn.lengths, np.full(size, 7, np.int32), drawn.domains),
        calibration=Calibration((0.5,), (0.25,)),
        asked=np.full(size, 9, np.int32),
    )
    write_recording(tmp_path / "recording", texts)
    back = read_recorded(tmp_path / "recording")
    assert (back.accepted == texts.accepted).all()
    assert (back.evidence == texts.evidence).all()
    assert back.calibration == texts.calibration
    assert (back.asked == texts.asked).all()
    assert {name: index.tolist() for name, index in back.domains.items()} == {
        name: index.tolist() for name, index in texts.domains.items()
    }


def test_a_file_that_is_no_recording_is_refused(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match="no recording"):
        read_texts(Acceptance(recording=str(path)), 0)
    with pytest.raises(ConfigError, match="recording's file"):
        read_texts(Acceptance(recording=str(tmp_path / "y")), 0)
