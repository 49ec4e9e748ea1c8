"""A sample of deliberate faults, each of which the tests must catch; `mutants.py` tries them.

The texts are as short as they can be and still occur once in their file, so that reformatted code keeps them. Where
code moves, so does the fault: change its file and its tests, and not what it breaks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One change that breaks the code: in `file`, `old`, which occurs there once, becomes `new`.

    The name says what the code then does. `tests` are the arguments of pytest, of which at least one test must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


METHOD = (
    Fault(
        name="adds Δ instead of subtracting it",
        file="cmrm/steering.py",
        old="before - self.shift[rows]",
        new="before + self.shift[rows]",
        tests=("tests/cmrm/test_laws.py::test_exactness_sample_level_at_full_strength_gives_the_text_state",),
    ),
    Fault(
        name="subtracts Δ at full strength whatever α is",
        file="cmrm/branch_steering.py",
        old=" * strength[:, None, None]",
        new="",
        tests=("tests/cmrm/test_answering.py::test_every_way_is_answered_as_it_is_alone",),
    ),
    Fault(
        name="steers only the first row of a batch",
        file="cmrm/branch_steering.py",
        old="shifts[block][:, number] = composed[:, index]",
        new="shifts[block][:1, number] = composed[:1, index]",
        tests=("tests/cmrm/test_answering.py::test_every_way_is_answered_as_it_is_alone",),
    ),
    Fault(
        name="stops steering after the prompt",
        file="cmrm/tree.py",
        old="steer_branches(self._vlm, shifts)",
        new="steer_branches(self._vlm, {})",
        tests=(
            "tests/cmrm/test_laws.py::test_cached_generation_under_steering_equals_a_cache_free_reference",
        ),
    ),
    Fault(
        name="finds the last token of a prompt as if no padding stood before it",
        file="cmrm/model.py",
        old="(attention_mask.bool() * columns).argmax(dim=1)",
        new="attention_mask.sum(dim=1) - 1",
        tests=("tests/cmrm/test_laws.py::test_batch_and_padding_do_not_change_states",),
    ),
    Fault(
        name="leaves the chat template out of a model's identity",
        file="cmrm/pinning.py",
        old='"*.jinja", ',
        new="",
        tests=(
            "tests/cmrm/test_revision.py::test_every_file_that_shapes_answers_is_part_of_the_fingerprint",
        ),
    ),
    Fault(
        name="gives another interval than Wilson's",
        file="cmrm/statistics.py",
        old="self.n + Z**2 / 4)",
        new="self.n)",
        tests=("tests/cmrm/test_statistics.py::test_a_rate_prints_with_its_wilson_interval",),
    ),
    Fault(
        name="opens an image outside of the image folder",
        file="cmrm/images.py",
        old="if not path.is_relative_to(",
        new="if not path.is_absolute() and not path.is_relative_to(",
        tests=(
            "tests/cmrm/test_images.py::test_a_name_cannot_climb_out_of_the_folder",
            "tests/cmrm/test_images.py::test_a_link_cannot_lead_out_of_the_folder",
        ),
    ),
)

STORAGE = (
    Fault(
        name="writes a manifest before the data that it names",
        file="storage/store.py",
        old="self.files.write(place, data)",
        # The data is there by then: it is taken away and put back after the manifest.
        new="""contents = {file.path: self.read(file.path) for file in stored}
        for path in contents:
            self.files.remove(path)
        self.files.write(place, data)
        for path, content in contents.items():
            self.files.write(path, content)""",
        tests=("tests/storage/test_faults.py::test_a_process_killed_around_a_rename_commits_all_or_nothing",),
    ),
    Fault(
        name="trusts the content of a data file without its digest",
        file="storage/whole.py",
        old="return None if sha256 == file.sha256 else changed",
        new="return None",
        tests=("tests/storage/test_store.py::test_a_missing_a_shortened_and_a_replaced_file_are_noticed",),
    ),
    Fault(
        name="trusts the content of a record without its seal",
        file="storage/sealed.py",
        old=' or record["seal"] != digest(plain)',
        new="",
        tests=("tests/storage/test_store.py::test_one_flipped_bit_in_any_file_is_noticed_and_logged",),
    ),
    Fault(
        name="resumes a shard without the rows that were flushed",
        file="storage/writer.py",
        old="in self.parts.read_all():",
        new="in ():",
        tests=(
            "tests/storage/test_writer.py"
            "::test_leaving_early_keeps_what_was_finished_as_a_part_and_removes_the_file",
        ),
    ),
    Fault(
        name="lets SQL change what is in the database",
        file="storage/catalog.py",
        old="read_only=True",
        new="read_only=False",
        tests=("tests/storage/test_confinement.py::test_a_hostile_query_is_refused_and_leaves_no_trace",),
    ),
    Fault(
        name="repeats a store's URL in the error about the credentials in it",
        file="storage/files.py",
        old='"the URL of the store holds credentials',
        new='f"the URL {text} of the store holds credentials',
        tests=(
            "tests/storage/test_s3_failures.py"
            "::test_a_url_that_carries_secrets_is_refused_without_repeating_them",
        ),
    ),
    Fault(
        name="calls garbage what a run refers to",
        file="storage/garbage.py",
        old="not is_used(manifest, used) and ",
        new="",
        tests=("tests/storage/test_inventory.py::test_what_no_run_refers_to_is_unused_once_it_is_old",),
    ),
)

STAGES = (
    Fault(
        name="commits a shard of which rows are missing",
        file="tasks/commit.py",
        old="if lost or surplus:",
        new="if surplus:",
        tests=(
            "tests/tasks/test_commit.py",
            "tests/flows/test_rows_kept.py::test_a_row_that_is_lost_where_rows_are_made_fails_the_job",
        ),
    ),
    Fault(
        name="takes the writer's shortage of memory for the model's",
        file="storage/errors.py",
        old="except MemoryError as error:",
        new="except RecursionError as error:",
        tests=("tests/tasks/test_commit.py",),
    ),
    Fault(
        name="answers past the model's positions",
        file="cmrm/tree.py",
        old="max(1, room)",
        new="None",
        tests=("tests/cmrm/test_position_limit.py",),
    ),
    Fault(
        name="keeps states in half precision",
        file="tasks/embed.py",
        old="states=send_to_host(states)",
        new="states=send_to_host(states.half())",
        tests=("tests/flows/test_states_kept.py",),
    ),
    Fault(
        name="leaves a model's revision out of the fingerprint in keys",
        file="tasks/models.py",
        old='"model": self.fingerprint',
        new='"model": self.identity.id',
        tests=("tests/tasks/test_models.py::test_what_is_usual_is_in_no_key_and_all_of_it_travels",),
    ),
    Fault(
        name="names an image in keys by its file and not by its bytes",
        file="tasks/samples.py",
        old="= self.image_digest",
        new="= self.sample.image",
        tests=("tests/flows/test_changes.py::test_a_change_does_again_exactly_what_depends_on_it[image]",),
    ),
    Fault(
        name="reuses verdicts of a judge with other options",
        file="tasks/judge.py",
        old="dict(describe_spec(self.judge))",
        new="self.judge.kind",
        tests=("tests/tasks/test_judges.py::test_a_key_is_of_the_judge_its_name_and_what_it_is_shown",),
    ),
    Fault(
        name="counts a reply that could not be parsed as safe",
        file="tasks/outcomes.py",
        old='name in {"unsafe", "safe"}',
        new='name in {"unsafe", "safe", "parse_error"}',
        tests=("tests/tasks/test_outcomes.py::test_a_parse_error_is_in_no_column_and_never_safe",),
    ),
    Fault(
        name="leaves the p values of a table without Holm's correction",
        file="tasks/table.py",
        old="change=next(corrected)",
        new="change=replace(cell.change, p_adjusted=cell.change.p)",
        tests=("tests/tasks/test_table.py::test_p_is_corrected_over_all_comparisons_of_the_table",),
    ),
    Fault(
        name="compares two runs by the default thresholds whatever was asked for",
        file="tasks/regression.py",
        old="one.change, thresholds)",
        new="one.change, Thresholds())",
        tests=(
            "tests/tasks/test_compare.py::test_what_is_excluded_everywhere_is_said_with_its_bound",
            "tests/tasks/test_compare.py::test_utility_and_over_refusal_are_judged_only_where_asked",
        ),
    ),
    Fault(
        name="drops a sample that cannot be answered without a row in quarantine",
        file="tasks/way.py",
        old="self._aside.append(row)",
        new="pass",
        tests=(
            "tests/flows/test_ways.py"
            "::test_a_sample_whose_own_shift_is_not_finite_at_a_ways_block_is_set_aside_in_that_way_alone",
        ),
    ),
    Fault(
        name="loses finished answers when a signal or an error interrupts their shard",
        file="tasks/way.py",
        old="with nullcontext() if error is None else suppress(StoreError, MemoryError):",
        new="if error is None:",
        tests=(
            "tests/flows/test_ways.py"
            "::test_ways_that_got_farther_than_others_are_not_asked_again_what_they_have",
        ),
    ),
)

RUNS = (
    Fault(
        name="writes HTML in a question or an answer unescaped into the report",
        file="flows/html.py",
        old=".translate(UNSAFE)",
        new="",
        tests=("tests/flows/test_html.py::test_json_in_the_page_ends_no_script_and_loses_nothing",),
    ),
    Fault(
        name="sends control characters of a name to the terminal",
        file="flows/terminal.py",
        old='letter.isprintable() or letter == "\\n"',
        new="True",
        tests=("tests/flows/test_render.py::test_names_are_neither_markup_nor_commands_to_the_terminal",),
    ),
    Fault(
        name="accepts a misspelt field of a spec",
        file="flows/section.py",
        old='extra="forbid"',
        new='extra="ignore"',
        tests=("tests/flows/test_model_sections.py::test_a_mistake_is_told_with_its_full_path",),
    ),
    Fault(
        name="takes a text that spreadsheets run as a formula into a CSV as it is",
        file="flows/exports.py",
        old="if text.startswith(FORMULA) else text",
        new='if text == "" else text',
        tests=("tests/flows/test_exports.py::test_no_name_in_a_csv_is_a_formula",),
    ),
    Fault(
        name="ends with status 0 though a file of the store is damaged",
        file="flows/store_commands.py",
        old="DIFFERENT = 1",
        new="DIFFERENT = 0",
        tests=(
            "tests/flows/test_store_commands.py::test_verify_ends_with_status_1_when_something_is_damaged",
        ),
    ),
    Fault(
        name="watches a model without noticing its new revision",
        file="flows/watch.py",
        old="last.fingerprints != now",
        new="not now",
        tests=(
            "tests/flows/test_watch.py::test_what_was_as_safe_before_is_told_too_and_a_step_back_is_a_change",
        ),
    ),
    Fault(
        name="loses the job of a worker that was killed",
        file="flows/runner_workers.py",
        old="again.append(job)",
        new="pass",
        tests=(
            "tests/flows/test_workers.py::test_a_job_that_takes_its_workers_down_again_and_again_is_told_of",
        ),
    ),
)

FAULTS: tuple[Fault, ...] = (*METHOD, *STORAGE, *STAGES, *RUNS)
