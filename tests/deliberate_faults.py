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
        file="cmrm/steering/hooks.py",
        old="before.float() - change).to(",
        new="before.float() + change).to(",
        tests=(
            "tests/cmrm/steering/test_laws.py::test_exactness_sample_level_at_full_strength_gives_the_text_state",
        ),
    ),
    Fault(
        name="subtracts Δ at full strength whatever α is",
        file="cmrm/steering/intervention.py",
        old=" * strength[:, None, None]",
        new="",
        tests=("tests/cmrm/decoding/test_answering.py::test_every_arm_is_answered_as_it_is_alone",),
    ),
    Fault(
        name="steers only the first row of a batch",
        file="cmrm/steering/hooks.py",
        old="shifts[block][:, number] += shift[:, index]",
        new="shifts[block][:1, number] += shift[:1, index]",
        tests=("tests/cmrm/decoding/test_answering.py::test_every_arm_is_answered_as_it_is_alone",),
    ),
    Fault(
        name="stops steering after the prompt",
        file="cmrm/decoding/tree_decoder.py",
        old="steer_branches(self._vlm, steering)",
        new="steer_branches(self._vlm, BranchSteering(shifts={}))",
        tests=(
            "tests/cmrm/steering/test_laws.py::test_cached_generation_under_steering_equals_a_cache_free_reference",
        ),
    ),
    Fault(
        name="finds the last token of a prompt as if no padding stood before it",
        file="cmrm/models/vlm.py",
        old="(attention_mask.bool() * columns).argmax(dim=1)",
        new="attention_mask.sum(dim=1) - 1",
        tests=("tests/cmrm/steering/test_laws.py::test_batch_and_padding_do_not_change_states",),
    ),
    Fault(
        name="adds what a projection should remove",
        file="cmrm/steering/projection.py",
        old="self.alpha * along @",
        new="-self.alpha * along @",
        tests=("tests/cmrm/defences/test_laws.py::test_ablation_leaves_nothing_along_the_direction",),
    ),
    Fault(
        name="exchanges the two prompts whose logits are mixed",
        file="cmrm/decoding/tree_decoder.py",
        old="own, plain = logits[leaders], logits[followers]",
        new="plain, own = logits[leaders], logits[followers]",
        tests=(
            "tests/cmrm/decoding/test_own_prompts.py"
            "::test_mixed_answers_depend_neither_on_slots_nor_on_what_else_is_decoded",
        ),
    ),
    Fault(
        name="subtracts a labelled direction instead of adding it",
        file="cmrm/defences/direction.py",
        old="delta=-materials",
        new="delta=materials",
        tests=("tests/cmrm/defences/test_laws.py::test_addition_moves_the_state_along_the_direction",),
    ),
    Fault(
        name="leaves the chat template out of a model's identity",
        file="cmrm/models/pinning.py",
        old='"*.jinja", ',
        new="",
        tests=(
            "tests/cmrm/models/test_revision.py::test_every_file_that_shapes_answers_is_part_of_the_fingerprint",
        ),
    ),
    Fault(
        name="leaves the image backend to what is installed",
        file="cmrm/models/image_backend.py",
        old="    processor.image_processor = found\n",
        new="",
        tests=("tests/conformance/test_image_backend.py",),
    ),
    Fault(
        name="leaves the image backend out of keys",
        file="tasks/core/models.py",
        old='{**self.content(), "image_backend": self.image_backend}',
        new="self.content()",
        tests=("tests/flows/spec/test_image_backend.py",),
    ),
    Fault(
        name="gives another interval than Wilson's",
        file="cmrm/statistics/rates.py",
        old="self.n + Z**2 / 4)",
        new="self.n)",
        tests=("tests/cmrm/statistics/test_rates.py::test_a_rate_prints_with_its_wilson_interval",),
    ),
    Fault(
        name="opens an image outside of the image folder",
        file="cmrm/prompts/media_files.py",
        old="if not path.is_relative_to(",
        new="if not path.is_absolute() and not path.is_relative_to(",
        tests=(
            "tests/cmrm/prompts/test_images.py::test_a_name_cannot_climb_out_of_the_folder",
            "tests/cmrm/prompts/test_images.py::test_a_link_cannot_lead_out_of_the_folder",
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
        tests=(
            "tests/storage/backends/test_faults.py::test_a_process_killed_around_a_rename_commits_all_or_nothing",
        ),
    ),
    Fault(
        name="trusts the content of a data file without its digest",
        file="storage/backends/checksum.py",
        old="return None if sha256 == file.sha256 else changed",
        new="return None",
        tests=("tests/storage/test_store.py::test_a_missing_a_shortened_and_a_replaced_file_are_noticed",),
    ),
    Fault(
        name="trusts the content of a record without its seal",
        file="storage/records/checksummed_json.py",
        old=' or record["seal"] != digest(plain)',
        new="",
        tests=("tests/storage/test_store.py::test_one_flipped_bit_in_any_file_is_noticed_and_logged",),
    ),
    Fault(
        name="resumes a shard without the rows that were flushed",
        file="storage/shards/writer.py",
        old="in self.parts.read_all():",
        new="in ():",
        tests=(
            "tests/storage/shards/test_writer.py"
            "::test_leaving_early_keeps_what_was_finished_as_a_part_and_removes_the_file",
        ),
    ),
    Fault(
        name="lets SQL change what is in the database",
        file="storage/sql/database.py",
        old="read_only=True",
        new="read_only=False",
        tests=("tests/storage/sql/test_confinement.py::test_a_hostile_query_is_refused_and_leaves_no_trace",),
    ),
    Fault(
        name="repeats a store's URL in the error about the credentials in it",
        file="storage/backends/base.py",
        old='"the URL of the store holds credentials',
        new='f"the URL {text} of the store holds credentials',
        tests=(
            "tests/storage/backends/test_s3_failures.py"
            "::test_a_url_that_carries_secrets_is_refused_without_repeating_them",
        ),
    ),
    Fault(
        name="calls garbage what a run refers to",
        file="storage/maintenance/gc.py",
        old="not is_used(manifest, used) and ",
        new="",
        tests=(
            "tests/storage/maintenance/test_inventory.py::test_what_no_run_refers_to_is_unused_once_it_is_old",
        ),
    ),
    Fault(
        name="takes a run of another host for a live one however old its heartbeat is",
        file="storage/liveness/heartbeat.py",
        old="return now - beaten <= STALE",
        new="return True",
        tests=("tests/storage/liveness/test_heartbeat.py",),
    ),
    Fault(
        name="follows a server of the internet into a private network",
        file="storage/backends/http_files.py",
        old="if connection.is_public:",
        new="if False:",
        tests=(
            "tests/storage/backends/test_remote_files.py"
            "::test_a_server_of_the_internet_cannot_lead_into_a_private_network",
        ),
    ),
)

STAGES = (
    Fault(
        name="asks again for an image of a URL that was fetched",
        file="tasks/data/remote_images.py",
        old="if known is not None:",
        new="if isinstance(known, LostMedium):",
        tests=(
            "tests/tasks/data/test_remote_images.py"
            "::test_images_are_kept_by_their_content_in_the_order_of_the_rows",
        ),
    ),
    Fault(
        name="loses a field without a word where its column's name is mistyped",
        file="cmrm/datasets/columns.py",
        old="if needed and any_row:",
        new="if not needed and any_row:",
        tests=(
            "tests/cmrm/datasets/test_plain_values.py"
            "::test_a_column_that_no_row_has_is_refused_with_the_nearest_name",
        ),
    ),
    Fault(
        name="names rows that differ in their context alike",
        file="cmrm/datasets/fields.py",
        old="if others:",
        new="if others is None:",
        tests=(
            "tests/cmrm/datasets/test_plain_values.py"
            "::test_rows_without_ids_are_told_apart_by_all_that_they_say",
        ),
    ),
    Fault(
        name="parts the rotations of a question of MMBench",
        file="cmrm/datasets/formats/mmbench.py",
        old="group=image,",
        new="group=None,",
        tests=(
            "tests/cmrm/datasets/test_short_answer_benchmarks.py"
            "::test_mmbenchs_rotations_share_an_image_that_one_row_holds",
        ),
    ),
    Fault(
        name="leaves no reference out where it counts those that match",
        file="cmrm/judges/vqa.py",
        old="_credit(matches - 1)",
        new="_credit(matches)",
        tests=("tests/cmrm/judges/test_vqa.py::test_worked_examples_have_the_known_scores",),
    ),
    Fault(
        name="puts the harmless twin of a question on another side than the harmful one",
        file="cmrm/datasets/formats/mm_safetybench_plus_plus.py",
        old='group=f"{category} {fields[_PAIR]}",',
        new='group=f"{category} {label} {fields[_PAIR]}",',
        tests=(
            "tests/cmrm/datasets/test_image_exports.py::test_twins_of_mm_safetybench_plus_plus_share_a_group",
        ),
    ),
    Fault(
        name="calls a request about the safe image of two harmful",
        file="cmrm/datasets/formats/mssbench.py",
        old="harmful=side.harmful,",
        new="harmful=True,",
        tests=(
            "tests/cmrm/datasets/test_image_benchmarks.py"
            "::test_mssbench_asks_each_chat_query_about_both_images",
        ),
    ),
    Fault(
        name="pairs questions with images that cannot be opened",
        file="tasks/data/pair.py",
        old="return name not in unreadable",
        new="return True",
        tests=(
            "tests/tasks/data/test_pair.py"
            "::test_captions_of_images_that_cannot_be_opened_give_no_image_and_the_log_says_how_many",
        ),
    ),
    Fault(
        name="computes only the missing rows of a fixed batch",
        file="tasks/shards/run_shard.py",
        old="if stored.sample.id not in self._failed]",
        new="if stored.sample.id in waiting]",
        tests=("tests/flows/test_reproducible.py",),
    ),
    Fault(
        name="quarantines every sample where the model fails on all",
        file="tasks/shards/isolation.py",
        old="return failed if works else []",
        new="return failed",
        tests=(
            "tests/flows/test_model_failures.py::test_a_model_that_fails_on_every_image_ends_the_run_with_its_own_error",
        ),
    ),
    Fault(
        name="commits a shard of which rows are missing",
        file="tasks/core/commit.py",
        old="if lost or surplus:",
        new="if surplus:",
        tests=(
            "tests/tasks/core/test_commit.py",
            "tests/flows/test_rows_kept.py::test_a_row_that_is_lost_where_rows_are_made_fails_the_job",
        ),
    ),
    Fault(
        name="takes the writer's shortage of memory for the model's",
        file="storage/errors.py",
        old="except MemoryError as error:",
        new="except RecursionError as error:",
        tests=("tests/tasks/core/test_commit.py",),
    ),
    Fault(
        name="answers past the model's positions",
        file="cmrm/decoding/tree_decoder.py",
        old="max(1, limit)",
        new="None",
        tests=("tests/cmrm/models/test_position_limit.py",),
    ),
    Fault(
        name="keeps states in half precision",
        file="tasks/states/extract.py",
        old="states=send_to_host(states[:, 0])",
        new="states=send_to_host(states[:, 0].half())",
        tests=("tests/flows/test_states_kept.py",),
    ),
    Fault(
        name="leaves a model's revision out of the fingerprint in keys",
        file="tasks/core/models.py",
        old='"model": self.fingerprint',
        new='"model": self.identity.id',
        tests=("tests/tasks/core/test_models.py::test_what_is_usual_is_in_no_key_and_all_of_it_travels",),
    ),
    Fault(
        name="names an image in keys by its file and not by its bytes",
        file="tasks/shards/samples.py",
        old="= self.image_digest",
        new="= self.sample.image",
        tests=("tests/flows/test_changes.py::test_a_change_does_again_exactly_what_depends_on_it[image]",),
    ),
    Fault(
        name="reuses verdicts of a judge with other options",
        file="tasks/judge/stage.py",
        old="dict(describe_spec(self.judge))",
        new="self.judge.kind",
        tests=("tests/tasks/judge/test_judges.py::test_a_key_is_of_the_judge_its_name_and_what_it_is_shown",),
    ),
    Fault(
        name="counts a reply that could not be parsed as safe",
        file="tasks/report/outcomes.py",
        old='name in {"unsafe", "safe"}',
        new='name in {"unsafe", "safe", "parse_error"}',
        tests=("tests/tasks/report/test_outcomes.py::test_a_parse_error_is_in_no_column_and_never_safe",),
    ),
    Fault(
        name="leaves the p values of a table without Holm's correction",
        file="tasks/report/table.py",
        old="change=next(corrected)",
        new="change=replace(cell.change, p_adjusted=cell.change.p)",
        tests=("tests/tasks/report/test_table.py::test_p_is_corrected_over_all_comparisons_of_the_table",),
    ),
    Fault(
        name="compares two runs by the default thresholds whatever was asked for",
        file="tasks/compare/verdict.py",
        old="one.change, thresholds)",
        new="one.change, Thresholds())",
        tests=(
            "tests/tasks/compare/test_compare.py::test_what_is_excluded_everywhere_is_said_with_its_bound",
            "tests/tasks/compare/test_compare.py::test_utility_and_over_refusal_are_judged_only_where_asked",
        ),
    ),
    Fault(
        name="drops a sample that cannot be answered without a row in quarantine",
        file="tasks/generate/answer_writer.py",
        old="self._quarantined.append(row)",
        new="pass",
        tests=(
            "tests/flows/test_arms.py"
            "::test_a_sample_whose_own_shift_is_not_finite_at_an_arms_block_is_quarantined_in_that_arm_alone",
        ),
    ),
    Fault(
        name="waits for a judge's call when it is told to stop",
        file="tasks/core/call_thread.py",
        old="                self._waiting.put(_Stop())",
        new="                pass",
        tests=(
            "tests/tasks/core/test_call_thread.py::test_what_was_given_before_the_stop_is_there_and_nothing_later",
            "tests/flows/test_interrupt.py::"
            "test_a_judge_that_hangs_in_the_background_is_abandoned_and_its_verdicts_are_kept",
        ),
    ),
    Fault(
        name="waits at its end for the threads of a judge that hangs",
        file="flows/process.py",
        old="        late.start()",
        new="        late.cancel()",
        tests=(
            "tests/flows/test_interrupt.py::"
            "test_a_judge_that_hangs_in_the_background_is_abandoned_and_its_verdicts_are_kept",
        ),
    ),
    Fault(
        name="loses finished answers when a signal or an error interrupts their shard",
        file="tasks/generate/answer_writer.py",
        old="with nullcontext() if error is None else suppress(StoreError, MemoryError):",
        new="if error is None:",
        tests=(
            "tests/flows/test_arms.py"
            "::test_arms_that_got_farther_than_others_do_not_generate_their_answers_again",
        ),
    ),
)

RUNS = (
    Fault(
        name="writes HTML in a question or an answer unescaped into the report",
        file="flows/report/writers/html.py",
        old=".translate(UNSAFE)",
        new="",
        tests=("tests/flows/report/test_html.py::test_json_in_the_page_ends_no_script_and_loses_nothing",),
    ),
    Fault(
        name="sends control characters of a name to the terminal",
        file="flows/terminal/safe_text.py",
        old='letter.isprintable() or letter == "\\n"',
        new="True",
        tests=(
            "tests/flows/report/test_render.py::test_names_are_neither_markup_nor_commands_to_the_terminal",
        ),
    ),
    Fault(
        name="accepts a misspelt field of a spec",
        file="flows/spec/section.py",
        old='extra="forbid"',
        new='extra="ignore"',
        tests=("tests/flows/spec/test_model_sections.py::test_an_error_names_the_full_path_of_its_field",),
    ),
    Fault(
        name="takes a text that spreadsheets run as a formula into a CSV as it is",
        file="flows/report/writers/exports.py",
        old="if text.startswith(FORMULA) else text",
        new='if text == "" else text',
        tests=("tests/flows/report/test_exports.py::test_no_name_in_a_csv_is_a_formula",),
    ),
    Fault(
        name="ends with status 0 though a file of the store is damaged",
        file="flows/commands/store.py",
        old="DIFFERENT = 1",
        new="DIFFERENT = 0",
        tests=(
            "tests/flows/commands/test_store_commands.py::test_verify_ends_with_status_1_when_something_is_damaged",
        ),
    ),
    Fault(
        name="watches a model without noticing its new revision",
        file="flows/watch/poll.py",
        old="last.fingerprints != now",
        new="not now",
        tests=(
            "tests/flows/watch/test_watch.py::test_an_equally_safe_revision_is_reported_and_a_reverted_one_is_a_change",
        ),
    ),
    Fault(
        name="takes a flow run that it gave up for one that a person cancelled",
        file="flows/workers/deployment.py",
        old="_give_up(client, run, now - chunk.since)\n            return True",
        new="_give_up(client, run, now - chunk.since)\n            return False",
        tests=(
            "tests/flows/workers/test_deployment_queue.py"
            "::test_where_none_is_ever_begun_the_run_ends_as_it_does_where_workers_die",
        ),
    ),
    Fault(
        name="leaves a killed run's task runs as running in Prefect",
        file="flows/server/dead_runs.py",
        old="client.set_task_run_state(task_run.id, Crashed(message=why), force=True)",
        new="pass",
        tests=(
            "tests/flows/server/test_dead_runs.py::test_flow_and_task_runs_of_a_killed_run_are_marked_as_crashed",
        ),
    ),
    Fault(
        name="lets the last of two equal keys of a spec win",
        file="flows/spec/yaml_reader.py",
        old="if value in mapping.lines:",
        new="if False:",
        tests=(
            "tests/flows/spec/test_spec_files.py"
            "::test_what_is_no_unambiguous_yaml_is_one_line_with_its_line_number",
        ),
    ),
    Fault(
        name="counts the values of an alias once however often it stands there",
        file="flows/spec/yaml_reader.py",
        old="self._size += anchored.size - 1",
        new="pass",
        tests=("tests/flows/spec/test_spec_files.py::test_aliases_are_bounded_by_what_they_come_to",),
    ),
    Fault(
        name="takes true for the strength 1",
        file="flows/spec/section.py",
        old="if isinstance(value, bool):",
        new="if False:",
        tests=("tests/flows/spec/test_spec_files.py::test_one_mistake_is_one_line",),
    ),
    Fault(
        name="reads a FIFO in a store as if it were a file",
        file="storage/backends/local_disk.py",
        old="if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):",
        new="if False:",
        tests=(
            "tests/storage/sql/test_no_files.py"
            "::test_a_fifo_in_place_of_a_committed_file_is_a_fault_that_verify_names",
        ),
    ),
    Fault(
        name="redacts a key in base64 only where it begins a group of three bytes",
        file="cmrm/untrusted/redaction.py",
        old="enumerate(_SHARED)",
        new="enumerate(_SHARED[:1])",
        tests=(
            "tests/cmrm/untrusted/test_redaction.py::test_base64_of_a_secret_of_any_length_is_found_wherever_it_begins",
        ),
    ),
    Fault(
        name="reads a spec without looking for secrets first",
        file="flows/spec/fields.py",
        old="if found := find_secret(content):",
        new="if found := None:",
        tests=(
            "tests/flows/spec/test_secrets.py"
            "::test_a_secret_in_a_spec_is_refused_wherever_it_stands_before_anything_is_written",
        ),
    ),
    Fault(
        name="submits jobs although the server is lost",
        file="flows/stages.py",
        old="lambda _: not self._monitor.is_lost",
        new="lambda _: True",
        tests=(
            "tests/flows/server/test_lost_server.py"
            "::test_the_job_in_flight_is_committed_before_a_run_without_its_server_ends_in_one_line",
        ),
    ),
    Fault(
        name="loses the job of a worker that was killed",
        file="flows/workers/task_runner.py",
        old="retries.append(job)",
        new="pass",
        tests=(
            "tests/flows/workers/test_workers.py::test_a_job_that_crashes_its_workers_again_and_again_ends_the_run",
        ),
    ),
)

FAULTS: tuple[Fault, ...] = (*METHOD, *STORAGE, *STAGES, *RUNS)
