import pytest

from vitkiln.engine.errors import RecipeError
from vitkiln.engine.evaluate.subject import kinds_of
from vitkiln.engine.recipe import load


def test_the_two_recipes_differ_in_alignment_and_in_the_cut_of_noise():
    ours, official = (load(name, ["data.root=x"]) for name in ("gmml", "gmml_official"))
    assert (ours.method.unit(ours.encoder), official.method.unit(official.encoder)) == (16, 1)
    assert official.method.model_copy(update={"align": None, "eight_bit": True}) == ours.method
    assert (official.encoder, official.optim, official.data) == (ours.encoder, ours.optim, ours.data)


def test_evaluation_looks_at_the_patches_mean_too():
    assert kinds_of(load("gmml", short=True)) == ("class", "mean")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.drop_share=0", "method.drop_share=0: must be more than 0"),
        ("method.replace_share=0", "method.replace_share=0: must be more than 0"),
        ("method.align=15", "method.align=15: must divide encoder.image_size=224; the nearest size is 225"),
        (
            "method.blocks=[6,8,10]",
            "method.blocks=[6, 8, 10]: must ascend and end with the encoder's last, 12",
        ),
        ("method.blocks=[8,6,12]", "method.blocks=[8, 6, 12]: must ascend and end with the encoder's last, 12"),
        ("method.blocks=[]", "method.blocks=[]: must ascend and end with the encoder's last, 12"),
        (
            "encoder.name=t2t_vit_14",
            "method.name=gmml: reads a token of each patch after several blocks, which t2t_vit_14 does not have "
            "everywhere; must be one of vit_tiny, vit_small, vit_base, vit_large in encoder.name",
        ),
        ("method.drop=swap", "method.drop=swap: must be noise or zeros"),
        ("method.global_scale=[0.5,0.1]", "method.global_scale=[0.5, 0.1]: must be two shares of the area"),
    ],
)
def test_settings_that_cannot_be_are_refused(override, message):
    with pytest.raises(RecipeError) as refused:
        load("gmml", ["data.root=x", override])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["method.local_size=100"], "method.local_size=100: must be a multiple of encoder.patch_size=16"),
        (["method.local_size=256"], "method.local_size=256: must be at most encoder.image_size=224"),
        (["method.align=7"], "method.align=7: must divide local_size=96; the nearest size is 98"),
    ],
)
def test_small_crops_that_do_not_fit_are_refused(more, message):
    with pytest.raises(RecipeError, match=message):
        load("gmml", ["data.root=x", "method.local_crops=4", *more])


def test_the_recipe_has_the_published_numbers():
    recipe = load("gmml", ["data.root=x"])
    optim, data = recipe.optim, recipe.data
    assert (optim.lr, optim.lr_scale, optim.min_lr, optim.warmup_epochs) == (5e-4, 256, 1e-6, 10)
    assert (optim.weight_decay, optim.final_weight_decay, optim.clip, optim.clip_per) == (0.04, 0.4, 3.0, "tensor")
    assert (data.batch_size, recipe.run.epochs, recipe.encoder.drop_path) == (256, 800, 0.1)
