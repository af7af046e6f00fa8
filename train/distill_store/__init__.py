"""What a teacher said, kept on disk: written once, read by any number of students without a teacher in memory.

    python -m train --config C --workdir W --phase pretrain
    python -m train.distill_store --config C --workdir W --phase distil --teacher pretrain --out DIR
    python -m train --config C --workdir W --phase distil --config.phases.distil.teacher=store:DIR

Entry r of a store belongs to global row r of the student phase's packed pipeline, a pure function of the seed and r.

A store is a folder:
- `store.json`: `Description` in `format.py`: what was kept, of which teacher, for rows of which data and tokenizer.
- `00000.array_record`, ...: shards of `rows_per_shard` rows, a record of a row each, laid out as `format.py` says.
- `00000.json`, ...: written after its shard is whole: rows, sizes and SHA-256. A shard without one is written again.
"""
