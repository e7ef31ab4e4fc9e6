"""Programs that try to break curate's promises, each with its seeds, its counts and a way to replay one trial. Not installed with the package.

Whatever they start computes with one thread and looks for nothing on a network, unless the environment says otherwise.
"""

import os

for _name, _value in {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}.items():
    os.environ.setdefault(_name, _value)
