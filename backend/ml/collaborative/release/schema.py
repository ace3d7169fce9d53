"""The manifest as it is written: the one declaration, from which its JSON Schema is generated.

Imported only where a manifest is written, so that readers need no pydantic.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, StringConstraints(min_length=1)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)+[0-9A-Za-z.+]*$")]
FileName = Annotated[
    str,
    StringConstraints(
        pattern=r"^(arrays/[a-z_]+\.npy|held_out(_lists)?\.npy|svd_model\.pkl|cf_trainset\.pkl|report\.html)$"
    ),
]


def _part(description: str, **bounds: Any) -> Any:
    return Field(description=description, **bounds)


def _optional(description: str, **bounds: Any) -> Any:
    """Declare a part that may be absent; the schema names no default for it."""
    return Field(None, description=description, json_schema_extra=_without_default, **bounds)


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SvdParameters(_Part):
    """Parameters of scikit-surprise's SVD."""

    factors: int = _part("Length of the user and film vectors.", ge=1)
    epochs: int = _part("Passes over the ratings.", ge=1)
    lr: float = _part("Learning rate of all parameters.", gt=0)
    reg: float = _part("Regularisation of all parameters.", gt=0)


class BayesianParameters(_Part):
    """Parameters of the training by Gibbs sampling."""

    factors: int = _part("Length of the user and film vectors of the result.", ge=1)
    rank: int = _part("Factors of the sampled model.", ge=1)
    chains: int = _part("Independent runs of the sampler.", ge=1)
    sweeps: int = _part("Steps of each chain.", ge=1)
    burn_in: int = _part("Steps at the start of each chain that the mean leaves out.", ge=0)


class AlsParameters(_Part):
    """Parameters of alternating least squares on a Spark cluster."""

    factors: int = _part("Length of the user and film vectors.", ge=1)
    iterations: int = _part("Times that all films' and all users' vectors are solved for.", ge=1)
    reg: float = _part("Regularisation of the vectors, times the ratings of each.", gt=0)
    item_bias_reg: float = _part("Average ratings that pull a film's bias to zero.", ge=0)
    user_bias_reg: float = _part("The same for a user's bias.", ge=0)


PARAMETERS: dict[str | None, type] = {
    "svd": SvdParameters, "bayesian": BayesianParameters, "als": AlsParameters, None: type(None),
}  # fmt: skip


class Source(_Part):
    """Where ratings came from; rows is the sum of kept and of the reasons in dropped."""

    name: Text = _part("A MovieLens set, sample, app, or ratings: what --ratings named.")
    rows: Count = _part("Rows that the source had.")
    dropped: dict[str, Annotated[int, Field(ge=1)]] = _part("Rows left out, by the reason.")
    kept: Count = _part("Rows that were trained on.")
    users: Count = _part("Users with a row that was kept.")
    films: Count = _part("Films with a row that was kept.")


class Data(_Part):
    """The ratings that the model was trained on."""

    ratings: Count = _part("How many there are, MovieLens's and the app's together.")
    users: Count = _part("Users with a rating among them.")
    films: Count = _part("Films with a rating among them.")
    app_ratings: Count = _part("Ratings by the app's own users: whose id does not begin with ml_.")
    app_users: Count = _part("The app's own users among the users.")
    is_sample: bool = _part("Whether all users are from the generated sample.")
    table_sha256: Sha256 | None = _part(
        "SHA-256 of the ratings, content and order, see ratings.table_hash; of ratings that stay "
        "on a cluster, of their number and of the sum of their rows' xxHash64. Null: unknown."
    )
    sources: list[Source] = _part("MovieLens sets or the sample, then the app. Empty: unknown.")


class Catalog(_Part):
    """The app's films. The model was trained on all films, and is cut to these."""

    films: int = _part("Films in it, each counted once.", ge=1)
    sha256: Sha256 = _part("SHA-256 of their TMDB ids in decimal, ascending, a line each.")
    covered: Count = _part("Those of them that have ratings.")
    published: Count = _part("Films in the release: those, and what the app's users rated.")


class Model(_Part):
    """A prediction is global_mean + bu[user] + bi[film] + pu[user] . qi[film], cut to the scale."""

    factors: int = _part("Length of a user's and of a film's vector.", ge=1)
    global_mean: float = _part("Mean of all ratings trained on, in stars.")
    rating_scale: list[float] = _part(
        "Lowest and highest rating in stars: 0.5 and 5 where there are half stars, else 1 and 5.",
        min_length=2, max_length=2,
    )  # fmt: skip
    shape: Literal["item-only"] = _optional(
        "item-only: the release holds films and no users, who are folded in. Absent: both."
    )
    lists: Literal["ranking", "cold"] = _optional(
        "What lists are made by. cold: what many like, as for a user nothing is known of, because "
        "on held-out ratings the ranking did not beat the most liked films beyond chance. Absent: "
        "ranking."
    )


class Metric(_Part):
    """How well one training predicts and ranks held-out ratings; absent measures were not taken."""

    held_out: Text = _part("Which ratings were kept from the training and then predicted.")
    model: Text = _part("Which training, or which baseline.")
    users: Literal["all users", "app users", "MovieLens users"] = _part("Whose ratings.")
    ratings: int = _part("Number of held-out ratings, over all folds.", ge=1)
    rmse: float = _optional("Root mean squared error, in stars; the mean over folds.", ge=0)
    mae: float = _optional("Mean absolute error, in stars.", ge=0)
    ndcg: Share = _optional("Normalised discounted cumulative gain of ten films.")
    precision: Share = _optional("Share of the ten that the user gave 4 stars or more.")
    recall: Share = _optional("Share of the films with 4 stars or more among the ten.")
    hit_rate: Share = _optional("Share of users with such a film among their ten.")
    coverage: Share = _optional("Share of all films that are among somebody's ten.")
    popularity: float = _optional("Mean training ratings of a recommended film.", ge=0)


class Check(_Part):
    """One thing that the gate looked at."""

    passed: bool = _part("Whether it was as it should be.")
    text: Text = _part("What was found and what was expected.")


class Gate(_Part):
    """Whether the model was found fit to be published."""

    passed: bool = _part("Whether every check passed.")
    forced: bool = _part("Whether it was published all the same, by --force-publish.")
    checks: list[Check] = _part("What was looked at.", min_length=1)


class File(_Part):
    """A file of the release. A reader verifies size and hash before it uses one."""

    name: FileName = _part("Path in the release's folder, with '/'.")
    bytes: Count = _part("Its size in bytes.")
    sha256: Sha256 = _part("SHA-256 of its content.")


class Versions(_Part):
    """What the release was made with; another scikit-surprise cannot read its pickles."""

    python: Version = _part("Version of Python.")
    numpy: Version = _part("Version of NumPy.")
    scikit_surprise: Version = _part("Version of scikit-surprise.", alias="scikit-surprise")
    pandas: Version = _part("Version of pandas.")
    numba: Version = _part("Version of Numba.")
    joblib: Version = _part("Version of joblib.")
    ml: Version = _part("Version of this project.")
    pyspark: Version = _optional("Version of PySpark; only of a training on a cluster.")


class Manifest(_Part):
    """What a build was made of and how, how good it is, and its files.

    Nothing in it is secret or personal: no key, address, path or user id. What the publisher did
    not know of the model is null.
    """

    schema_version: Literal[1] = _part("Of the whole release; readers refuse a higher one.")
    build_id: str = _part(
        "Name of the release and of its folder: date and time in UTC, the microsecond as five "
        "hexadecimal digits, a random digit. Both pickles have it as the attribute build_id.",
        pattern=r"^[0-9]{8}-[0-9]{6}-[0-9a-f]{6}$",
    )
    created: str = _part(
        "When the training was done, in UTC, to the second.",
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$",
    )
    git_commit: Annotated[str, Field(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")] | None = _part(
        "HEAD of the repository that the code is in. Null: no repository, or no git."
    )
    asked: Literal["auto", "svd", "bayesian", "als"] | None = _part(
        "Which algorithm was asked for; auto: the better of svd and bayesian. Null: unknown."
    )
    algorithm: Literal["svd", "bayesian", "als"] | None = _part("How it was trained.")
    parameters: SvdParameters | BayesianParameters | AlsParameters | None = _part(
        "What it was trained with, besides the seed."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = _part(
        "Of all that was drawn at random. The same inputs and seed give the same arrays."
    )
    data: Data = _part("Which ratings the model was trained on.")
    catalog: Catalog | None = _part("The app's films. Null: every film, or unknown.")
    model: Model = _part("What is needed beside the arrays to predict.")
    metrics: list[Metric] = _part(
        "How well it does on held-out ratings; the gate judges by the first entry."
    )
    gate: Gate | None = _part("What the gate said. Null: it was not asked.")
    files: list[File] = _part("Every file of the release but this manifest.", min_length=13)
    versions: Versions = _part("What it was made with.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not isinstance(self.parameters, PARAMETERS[self.algorithm]):
            raise ValueError("the parameters are not those of the algorithm")
        names = [file.name for file in self.files]
        if not {"svd_model.pkl", "cf_trainset.pkl"} <= {*names} or len(names) != len({*names}):
            raise ValueError("files names no pickles, or a file twice")
        return self


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of `manifest.json`; `docs/manifest.schema.json` holds it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | (
        Manifest.model_json_schema(by_alias=True)
    )
