"""Command lines: what each form is parsed to, or the one sentence it fails with."""

import os
import pathlib
import shutil
import subprocess
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

import smallvit_jax
from smallvit_jax.command.config_files import load_config
from smallvit_jax.command.flags import read_flags, resolve
from smallvit_jax.config.check import validate
from smallvit_jax.config.tree import DEFAULTS, FIELD_AT, flatten
from smallvit_jax.config.values import as_text, read_value
from smallvit_jax.errors import UserError
from smallvit_jax.main import main
from smallvit_jax.version import __version__

ROOT = pathlib.Path(__file__).parents[2]
RECIPE = ["--config", "configs/recipe.py", "--workdir", "runs/x"]


@pytest.fixture(autouse=True)
def _in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def config_of(*words):
    config, _, _ = resolve(read_flags([*RECIPE, *words]))
    validate(config)
    return config


def error_of(capsys, *words):
    """Runs main, which must fail with a user error, and returns the line it prints."""
    assert main(list(words)) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith("error: ") and error.count("\n") == 1
    return error.strip()


def write_config(folder, *body, head="from smallvit_jax.config import default_config"):
    path = folder / "mine.py"
    path.write_text("\n".join([head, "def get_config():", *(f"    {line}" for line in body)]))
    return str(path)


def test_flags_with_equals_and_with_spaces():
    words = ["--workdir=~/a b", "--config=configs/recipe.py:vit,digits", "--data_dir", str(ROOT)]
    fields = ["--config.pretrain.epochs", "3", "--config.finetune.optimizer.lr=2e-3"]
    config, workdir, data_dir = resolve(read_flags([*words, *fields]))
    assert (config.dataset.name, config.pretrain.epochs) == ("digits", 3)
    assert config.finetune.optimizer.lr == 0.002
    assert workdir == pathlib.Path.home() / "a b"
    assert data_dir == str(ROOT)


def test_addresses_elsewhere_stay_text():
    words = ["recipe", "--workdir=gs://a/b", "--data_dir=gs://a/c"]
    _, workdir, data_dir = resolve(read_flags(words))
    assert (workdir, data_dir) == ("gs://a/b", "gs://a/c")


def test_data_dir_is_none_unless_given():
    assert resolve(read_flags(RECIPE))[2] is None


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("seed", "7", 7),
        ("seed", "1e3", 1000),
        ("runtime.checkpoint_every", "1_000", 1000),
        ("finetune.optimizer.lr", "3", 3.0),
        ("recipe.from_scratch", "true", True),
        ("recipe.from_scratch", "Yes", True),
        ("recipe.from_scratch", "1", True),
        ("pretrain.teacher.drop_path", "false", False),
        ("pretrain.teacher.drop_path", "no", False),
        ("pretrain.teacher.drop_path", "0", False),
        ("model.width", "64", 64),
        ("model.width", "none", None),
        ("model.width", "None", None),
        ("pretrain.views.global_scale", "0.5,1", (0.5, 1.0)),
        ("pretrain.views.global_scale", "(0.5, 1.0)", (0.5, 1.0)),
        ("pretrain.views.global_scale", "none", None),
        ("finetune.augment.erase_area", "(0.1,0.2,)", (0.1, 0.2)),
        ("runtime.compilation_cache", "", ""),
        ("finetune.init_from", "none", "none"),
        ("finetune.init_from", "a=b", "a=b"),
    ],
)
def test_values_of_each_type_are_parsed(path, text, value):
    parsed = read_value(path, text)
    assert parsed == value and type(parsed) is type(value)
    assert flatten(config_of("--config.job=finetune", f"--config.{path}={text}"))[path] == value
    assert flatten(config_of("--config.job=finetune", f"--config.{path}", text))[path] == value


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("seed", "1.5"),
        ("seed", "true"),
        ("seed", "none"),
        ("seed", ""),
        ("seed", "1e99"),
        ("seed", "nan"),
        ("model.width", "wide"),
        ("finetune.optimizer.lr", "nan"),
        ("finetune.optimizer.lr", "inf"),
        ("finetune.optimizer.lr", "1e999"),
        ("finetune.optimizer.lr", "0,1"),
        ("recipe.from_scratch", "2"),
        ("recipe.from_scratch", "none"),
        ("pretrain.views.blur", "a,b,c"),
        ("pretrain.views.blur", "(1,1,1"),
        ("pretrain.views.blur", ""),
        ("pretrain.views.blur", "none"),
    ],
)
def test_values_of_the_wrong_type_are_refused(capsys, path, text):
    error = error_of(capsys, *RECIPE, f"--config.{path}={text}")
    assert f"--config.{path} must be " in error and f'not "{text}"' in error


@pytest.mark.parametrize("path", FIELD_AT)
def test_every_default_can_be_given_as_text(path):
    value = DEFAULTS[path]
    assert read_value(path, value if isinstance(value, str) else as_text(value)) == value


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**30), 10**30))
def test_numbers_survive_the_command_line(real, whole):
    assert read_value("finetune.optimizer.lr", repr(real)) == real
    assert read_value("seed", str(whole)) == whole


@given(st.text(max_size=12))
def test_any_text_parses_or_raises_a_user_error(text):
    for path in ("seed", "finetune.optimizer.lr", "recipe.from_scratch", "pretrain.views.blur"):
        try:
            parsed = read_value(path, text)
        except UserError:
            continue
        assert type(parsed) is FIELD_AT[path].type


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["--config is missing", "quickstart.py"]),
        (["--config", "configs/recipe.py"], ["--workdir is missing"]),
        (["--config"], ["--config needs a value"]),
        (["--config", "--workdir", "x"], ["--config needs a value"]),
        (["--config="], ["--config is empty"]),
        ([*RECIPE, "--workdir", "y"], ["--workdir is given twice"]),
        ([*RECIPE, "--workdri=3"], ["unknown flag --workdri", '"--workdir"']),
        ([*RECIPE, "--data-dir=."], ["unknown flag --data-dir", '"--data_dir"']),
        ([*RECIPE, "--pretrain.epochs=3"], ["unknown flag", '"--config.pretrain.epochs"']),
        (["recipe", *RECIPE], ["--config is given twice"]),
        (["recipe", "stray"], ['unexpected argument "stray" after "recipe"']),
        ([*RECIPE, "stray"], ['unexpected argument "stray" after "--workdir runs/x"']),
        ([*RECIPE, "--config.seed=1", "--config.seed=1"], ["--config.seed is given twice"]),
        ([*RECIPE, "--config.seed"], ["--config.seed needs a value"]),
        ([*RECIPE, "--config.recipe.from_scratch"], ["from_scratch=true or --config.recipe"]),
        ([*RECIPE, "--config.recipe.from_scratch", "--config.seed=1"], ["from_scratch=true"]),
        ([*RECIPE, "--config.pretain.epochs=3"], ['no field "pretain.epochs"', "pretrain.epochs"]),
        ([*RECIPE, "--config.epochs=3"], ['"pretrain.epochs" or "finetune.epochs"']),
        ([*RECIPE, "--config.seed.x=1"], ['no field "seed.x"', '"seed"']),
        ([*RECIPE, "--config.=1"], ['no field ""']),
        (
            [*RECIPE, "--config.model=vit"],
            ["a group takes no value", "name, image_size, pa"],
        ),
        ([*RECIPE, "--config.seed", "-1"], ["seed is -1"]),
        ([*RECIPE, "--data_dir=no/where"], ['no folder "no/where"']),
        (["--config=configs/recipe.py", "--workdir=setup.py"], ['"setup.py" is a file']),
        (["--config=configs/recipe.py", "--workdir=setup.py/x/y"], ['"setup.py" is a file']),
        (
            [*RECIPE, "--config.dataset.root=gs://a/b"],
            ['dataset.root is "gs://a/b"', "copy it here"],
        ),
    ],
)
def test_flag_mistakes_get_one_sentence(capsys, words, parts):
    error = error_of(capsys, *words)
    assert all(part in error for part in parts), error


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        ("configs/recipie.py", ['no file "configs/recipie.py"', '"configs/recipe.py"']),
        ("recipie:vit,cifar10", ['no file "recipie" (did you mean "recipe"?)', "pretrain, quick"]),
        ("mine/recipe.py", ['no file "mine/recipe.py"', 'did you mean "recipe"']),
        ("configs", ['"configs" is a folder', "pretrain, quickstart"]),
        (".", ['"." is a folder']),
        (":vit,cifar10", ['"." is a folder']),
        ("LICENSE", ["must end in .py"]),
        ("smallvit_jax/errors.py", ["defines no function get_config"]),
        ("configs/quickstart.py:vit", ["takes no argument", '":vit"']),
        ("configs/recipe.py:vit", ["MODEL,DATASET", '"vit"']),
        ("configs/recipe.py:", ["MODEL,DATASET"]),
        ("configs/recipe.py:vti,cifar10", ['no model "vti" (did you mean "vit"?)']),
        ("recipe:digits,vit", ['no model "digits" (the model comes first, as in vit,cifar10)']),
        ("configs/recipe.py:vit,cifar-10", ['no dataset "cifar-10" (did you mean "cifar10"?)']),
        ("configs/evaluate.py:digit", ['no dataset "digit" (did you mean "digits"?)']),
    ],
)
def test_config_flag_mistakes_get_one_sentence(capsys, file, parts):
    error = error_of(capsys, "--config", file, "--workdir", "runs/x")
    assert all(part in error for part in parts), error


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("config.pretrain.epoch = 3", 'no field "epoch" (did you mean "pretrain.epochs"'),
        ('config.pretrain.epochs = "many"', '"epochs" must be a whole number, not "many"'),
        ("raise SystemExit(5)", "it exits instead of returning a config"),
    ],
)
def test_mistakes_in_a_config_file_are_named(tmp_path, capsys, line, words):
    path = write_config(tmp_path, "config = default_config()", line, "return config")
    error = error_of(capsys, "--config", path, "--workdir", "runs/x")
    assert f"{path}:4: " in error and words in error


def test_digits_of_other_scripts_are_no_numbers(capsys):
    words = ["--config", "quickstart", "--workdir", "runs/x", "--config.pretrain.epochs=\uff13"]
    assert "must be a whole number" in error_of(capsys, *words)


@pytest.mark.parametrize("config", ["recipe", "configs/recipe.py"])
def test_shipped_configs_are_found_from_any_folder(monkeypatch, tmp_path, config):
    monkeypatch.chdir(tmp_path)
    assert load_config(f"{config}:cait,digits").model.name == "cait"
    installed = tmp_path / "lib/smallvit_jax"  # as a wheel has it
    shutil.copytree(ROOT / "configs", installed / "configs")
    monkeypatch.setattr("smallvit_jax.command.config_files._PACKAGE", installed)
    assert load_config(f"{config}:swin,digits").model.name == "swin"


@pytest.fixture
def own_files(monkeypatch, tmp_path):
    """A working folder with names of shipped configs: files with seed 5, and folders."""
    for name in ("recipe.py", "recipe", "configs/recipe.py", "configs/quickstart.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        path = write_config(
            tmp_path, "config = default_config()", "config.seed = 5", "return config"
        )
        os.rename(path, tmp_path / name)
    (tmp_path / "predict").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("config", "job"), [("recipe:vit,digits", "recipe"), ("predict",) * 2])
def test_a_name_is_always_the_shipped_config(own_files, config, job):
    loaded = load_config(config)
    assert (loaded.job, loaded.seed) == (job, 0)


def test_a_path_is_a_file_of_the_working_folder_if_it_has_it(own_files):
    for path in ("recipe.py", "configs/recipe.py", "./configs/quickstart.py"):
        assert load_config(path).seed == 5
    assert load_config("configs/finetune.py:vit,digits").job == "finetune"


@pytest.mark.parametrize("name", ["recipie", "configs/recipie.py"])
def test_shipped_configs_are_listed_whatever_the_working_folder_has(own_files, capsys, name):
    error = error_of(capsys, name, "--workdir", "runs/x")
    assert error.endswith("small_data, structured_init, sweep"), error


def test_first_word_is_the_config():
    config, workdir, _ = resolve(read_flags(["recipe:swin,digits", "--workdir", "runs/x"]))
    assert (config.job, config.model.name, workdir) == ("recipe", "swin", pathlib.Path("runs/x"))


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (["return 1 +"], [":3: SyntaxError"]),
        (
            ["config = default_config()", "config.model.widht = 3"],
            [":4: there is no field", "widht"],
        ),
        (
            ["config = default_config()", "config.seed = 'x'"],
            [':4: "seed" must be a whole number, not "x"'],
        ),
        (["raise ValueError('first\\nsecond')"], [":3: ValueError: first second"]),
        (["return 1"], ["returned int"]),
        (["config = default_config().unlock()", "del config.seed", "return config"], ["seed"]),
        (["return default_config().unlock().update(x=1)"], ["returned NoneType"]),
        (
            ["config = default_config().unlock()", "config.modle = 1", "return config"],
            ['has no field "modle"'],
        ),
    ],
)
def test_config_file_mistakes_get_one_sentence(capsys, tmp_path, body, parts):
    path = write_config(tmp_path, *body)
    error = error_of(capsys, "--config", path, "--workdir", str(tmp_path))
    assert all(part in error for part in parts), error
    assert "UserError" not in error


def test_config_file_in_a_folder_with_a_colon(tmp_path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    path = write_config(folder, "config = default_config()", "config.seed = 5", "return config")
    assert load_config(path).seed == 5


def test_help_and_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"smallvit_jax {__version__}\n"
    assert main(["-h"]) == 0
    assert "pretrain.epochs=200 " in capsys.readouterr().out
    assert main(["--config=configs/quickstart.py", "--wrong", "stray", "--help"]) == 0
    assert "pretrain.epochs=72 " in capsys.readouterr().out
    assert main(["quickstart", "--help"]) == 0
    assert "pretrain.epochs=72 " in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["--config", "configs/recipe.py", "--help"]])
def test_help_imports_nothing_heavy(words):
    program = (
        "import sys; from smallvit_jax.main import main; code = main(sys.argv[1:]); "
        "heavy = {'jax', 'flax', 'optax', 'orbax', 'sklearn', 'matplotlib', 'tensorflow_datasets'};"
        "sys.exit(code or ', '.join(heavy & set(sys.modules)) or 0)"
    )
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(smallvit_jax.__path__[0]).parent)}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")


def replace_job(monkeypatch, run):
    """Replaces the job "recipe" by one with the given `run`."""
    job = types.ModuleType("smallvit_jax.jobs.recipe")
    job.run = run
    monkeypatch.setitem(sys.modules, "smallvit_jax.jobs.recipe", job)


def test_main_passes_config_and_data_folder_to_the_job(monkeypatch, tmp_path):
    def run(config, workdir, reader):
        workdir.mkdir(parents=True)
        (workdir / "result").write_text(f"{config.pretrain.epochs} {reader.data_dir}")

    replace_job(monkeypatch, run)
    words = ["--config=configs/recipe.py", f"--workdir={tmp_path / 'a' / 'b'}"]
    assert main([*words, f"--data_dir={tmp_path}", "--config.pretrain.epochs=4"]) == 0
    assert (tmp_path / "a/b/result").read_text() == f"4 {tmp_path}"


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UserError("no such thing"), 2, "error: no such thing\n"),
        (OSError(28, "No space left on device", "x/y"), 2, 'no space left on the disk at "x/y"'),
        (OSError(28, "No space left on device"), 2, "no space left on the disk;"),
        (PermissionError(13, "Permission denied", "x/y"), 2, 'read or write at "x/y"'),
        (OSError(30, "Read-only file system", "x/y"), 2, 'read or write at "x/y"'),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
def test_known_errors_set_exit_code_and_print_one_line(monkeypatch, capsys, error, code, sentence):
    def run(config, workdir, reader):
        raise error

    replace_job(monkeypatch, run)
    assert main(RECIPE) == code
    output = capsys.readouterr().err
    assert sentence in output and output.count("\n") == 1


def test_unexpected_error_keeps_its_traceback(monkeypatch, capsys):
    def run(config, workdir, reader):
        raise FileNotFoundError(2, "No such file", "inner")

    replace_job(monkeypatch, run)
    assert main(RECIPE) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "FileNotFoundError" in error
    assert error.splitlines()[-1].startswith(f"error: this is a bug in smallvit_jax {__version__}")
