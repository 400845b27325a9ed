"""The FID's Inception beside a PyTorch reading of it, at random weights; and how images are resized, by hand."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxdiff as jd
from jaxdiff.networks.inception import Inception, resized

SHAPES = Inception().shapes


def by_torch(torch):
    """The network as its paper draws it, with the names of the port and the pooling of TensorFlow."""
    nn, pool = torch.nn, torch.nn.functional
    average = lambda x: pool.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    halve = lambda x: pool.max_pool2d(x, 3, stride=2)

    class Conv(nn.Module):
        def __init__(self, before, after, kernel=1, stride=1, padding=0):
            super().__init__()
            self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
            self.bn = nn.BatchNorm2d(after, eps=1e-3)

        def forward(self, x):
            return self.bn(self.conv(x)).relu()

    wide, high = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))

    class A(nn.Module):
        def __init__(self, before, pooled):
            super().__init__()
            self.branch1x1 = Conv(before, 64)
            self.branch5x5_1, self.branch5x5_2 = Conv(before, 48), Conv(48, 64, 5, padding=2)
            self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(before, 64), Conv(64, 96, 3, padding=1)
            self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
            self.branch_pool = Conv(before, pooled)

        def forward(self, x):
            five = self.branch5x5_2(self.branch5x5_1(x))
            three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
            return torch.cat([self.branch1x1(x), five, three, self.branch_pool(average(x))], 1)

    class B(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch3x3 = Conv(288, 384, 3, 2)
            self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(288, 64), Conv(64, 96, 3, padding=1)
            self.branch3x3dbl_3 = Conv(96, 96, 3, 2)

        def forward(self, x):
            three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
            return torch.cat([self.branch3x3(x), three, halve(x)], 1)

    class C(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.branch1x1 = Conv(768, 192)
            self.branch7x7_1, self.branch7x7_2 = Conv(768, inner), Conv(inner, inner, *wide)
            self.branch7x7_3 = Conv(inner, 192, *high)
            self.branch7x7dbl_1, self.branch7x7dbl_2 = Conv(768, inner), Conv(inner, inner, *high)
            self.branch7x7dbl_3, self.branch7x7dbl_4 = Conv(inner, inner, *wide), Conv(inner, inner, *high)
            self.branch7x7dbl_5 = Conv(inner, 192, *wide)
            self.branch_pool = Conv(768, 192)

        def forward(self, x):
            seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
            twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
            twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
            return torch.cat([self.branch1x1(x), seven, twice, self.branch_pool(average(x))], 1)

    class D(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch3x3_1, self.branch3x3_2 = Conv(768, 192), Conv(192, 320, 3, 2)
            self.branch7x7x3_1, self.branch7x7x3_2 = Conv(768, 192), Conv(192, 192, *wide)
            self.branch7x7x3_3, self.branch7x7x3_4 = Conv(192, 192, *high), Conv(192, 192, 3, 2)

        def forward(self, x):
            seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
            return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, halve(x)], 1)

    class E(nn.Module):
        def __init__(self, before, pooling):
            super().__init__()
            self.pooling = pooling
            self.branch1x1, self.branch3x3_1 = Conv(before, 320), Conv(before, 384)
            self.branch3x3_2a = Conv(384, 384, (1, 3), padding=(0, 1))
            self.branch3x3_2b = Conv(384, 384, (3, 1), padding=(1, 0))
            self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(before, 448), Conv(448, 384, 3, padding=1)
            self.branch3x3dbl_3a = Conv(384, 384, (1, 3), padding=(0, 1))
            self.branch3x3dbl_3b = Conv(384, 384, (3, 1), padding=(1, 0))
            self.branch_pool = Conv(before, 192)

        def forward(self, x):
            once, twice = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
            three = [self.branch3x3_2a(once), self.branch3x3_2b(once)]
            five = [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
            return torch.cat([self.branch1x1(x), *three, *five, self.branch_pool(self.pooling(x))], 1)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Conv(3, 32, 3, 2), Conv(32, 32, 3)
            self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
            self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Conv(64, 80), Conv(80, 192, 3)
            self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(192, 32), A(256, 64), A(288, 64)
            self.Mixed_6a, self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (
                B(),
                C(128),
                C(160),
                C(160),
                C(192),
            )
            self.Mixed_7a, self.Mixed_7b = D(), E(1280, average)
            self.Mixed_7c = E(2048, lambda x: pool.max_pool2d(x, 3, stride=1, padding=1))
            self.fc = nn.Linear(2048, 1008)

        def forward(self, x):
            x = halve(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
            x = halve(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
            for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
                x = getattr(self, f"Mixed_{name}")(x)
            return x.mean((2, 3))

    return Network().eval()


@pytest.fixture(scope="module")
def weights():
    """Drawn so that the variance of what goes through stays of order 1."""
    rng, weights = np.random.default_rng(0), {}
    for name, shape in SHAPES.items():
        if name.endswith("conv.weight"):
            values = rng.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("running_var", "bn.weight")):
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = 0.1 * rng.standard_normal(shape)
        weights[name] = values.astype(np.float32)
    return weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("inception")
    unread = {"fc.weight": np.zeros((1008, 2048), np.float32), "fc.bias": np.zeros(1008, np.float32)}
    names = [name.removesuffix("bias") for name in weights if name.endswith("bn.bias")]
    counted = {f"{name}num_batches_tracked": np.array(0) for name in names}
    save_file(weights | unread | counted, folder / "model.safetensors")
    return folder


@pytest.mark.slow
def test_features_are_those_of_a_pytorch_reading_whatever_the_batch(folder, weights):
    """Three images in batches of two; PyTorch is given what resizing and scaling made of them."""
    torch = pytest.importorskip("torch")
    features = jd.pretrained.inception(folder)
    images = np.random.default_rng(1).integers(0, 256, (3, 7, 9, 3), np.uint8)
    network = by_torch(torch)
    missing, unknown = network.load_state_dict({k: torch.tensor(v) for k, v in weights.items()}, strict=False)
    assert not unknown
    assert set(missing) == {"fc.weight", "fc.bias"}
    x = (np.asarray(resized(images)) - 128) / 128
    with torch.no_grad():
        expected = network(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    found = features(images, batch_size=2)
    assert found.shape == (3, 2048)
    assert found.dtype == np.float32
    scale = expected.std()
    assert scale > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * scale)


def test_resizing_is_tensorflows():
    """Two rows to four by hand: old rows 0, 1/2, 1 and 3/2, the last of which ends at row 1. Columns stay."""
    image = np.array([[10, 20, 30, 40], [20, 50, 30, 0]], np.uint8)[None, :, :, None]
    expected = [[10, 20, 30, 40], [15, 35, 30, 20], [20, 50, 30, 0], [20, 50, 30, 0]]
    np.testing.assert_array_equal(resized(image, 4)[0, :, :, 0], expected)
    np.testing.assert_array_equal(resized(image.swapaxes(1, 2), 4)[0, :, :, 0], np.transpose(expected))
    row = np.arange(5, dtype=np.uint8).reshape(1, 1, 5, 1)  # of five columns three: 0, 5/3 and 10/3, nothing smoothed
    np.testing.assert_allclose(resized(row, 3)[0, 0, :, 0], [0, 5 / 3, 10 / 3], rtol=1e-6)
    np.testing.assert_array_equal(resized(np.full((1, 2, 2, 3), 7, np.uint8)), np.full((1, 299, 299, 3), 7))


def test_a_folder_that_is_not_inceptions_is_refused(folder, weights, tmp_path):
    def refused(message, arrays=None, place=tmp_path):
        if arrays is not None:
            save_file(arrays, place / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            jd.pretrained.inception(place)

    (tmp_path / "a file").write_text("")
    refused("a file is not a folder", place=tmp_path / "a file")
    refused("has no file of safetensors; help")
    (tmp_path / "pt_inception.pth").write_bytes(b"cos\nsystem\n")
    refused("pt_inception.pth is a pickle, which is never loaded; help")
    name = "Mixed_7c.branch_pool.bn.running_var"
    small = {key: np.zeros(shape, np.float32) for key, shape in SHAPES.items() if key == name}
    refused("has no weight 'Conv2d_1a_3x3", small)
    refused("does not have, the first 'Conv2d_9z'", weights | {"Conv2d_9z": np.zeros(1, np.float32)})
    refused(r"running_var has shape \(2,\); expected \(192,\)", weights | {name: np.ones(2, np.float32)})
    refused("running_var has a value below 0", weights | {name: -weights[name]})
    save_file(small, tmp_path / "second.safetensors")
    refused("has 2 files of safetensors")


def test_what_is_no_picture_of_eight_bits_is_refused():
    features = jd.pretrained.InceptionFeatures({}, "inception")
    with pytest.raises(TypeError, match="images has dtype float32; expected uint8"):
        features(np.zeros((1, 4, 4, 3), np.float32))
    for shape in ((4, 4, 3), (1, 4, 4, 1), (0, 4, 4, 3)):
        with pytest.raises(ValueError, match="expected .* repeat grey ones"):
            features(np.zeros(shape, np.uint8))
