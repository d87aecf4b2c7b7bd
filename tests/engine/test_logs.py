"""A run logs to its own folder, and leaves the loggers as they were."""

import logging
from argparse import Namespace

import pytest

from d2_regnet.engine import load_config
from d2_regnet.engine.logs import job_logging


@pytest.mark.parametrize("console", [True, False])
def test_each_run_logs_to_its_own_folder(fixtures, tmp_path, capsys, console):
    logs = [logging.getLogger(name) for name in ("detectron2", "fvcore", "d2_regnet")]
    before = [(list(log.handlers), log.propagate) for log in logs]
    for run in ("one", "other"):
        cfg = load_config(
            str(fixtures / "tiny_mask_rcnn.py"), [f"train.output_dir={tmp_path / run}"]
        )
        with job_logging(cfg, Namespace(eval_only=False, resume=False), console):
            for log in logs:
                log.info("%s: %s was here", run, log.name)
            logging.getLogger("d2_regnet").warning("%s: mind", run)
        assert [(log.handlers, log.propagate) for log in logs] == before
    printed = capsys.readouterr().out
    for run, not_run in (("one", "other"), ("other", "one")):
        text = (tmp_path / run / "log.txt").read_text()
        assert text.count(f"{run}: ") == 4 and f"{not_run}: " not in text
        assert (tmp_path / run / "config.yaml").is_file()
        assert (f"{run}: d2_regnet was here" in printed) == console
        assert f"{run}: mind" in printed
