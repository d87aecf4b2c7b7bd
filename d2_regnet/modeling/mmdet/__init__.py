"""One class for each place where MMDetection's arithmetic differs from Detectron2's."""
