"""mmtrain trains the models behind multimodal AI from one config tree."""
