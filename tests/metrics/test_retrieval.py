import numpy as np

from jaxdiff.metrics import retrieval


def test_the_share_of_three_queries_is_the_one_by_hand():
    """The axes are keys; the first query is nearest to its own, of the second one key is nearer, of the third two."""
    queries = np.array([[1.0, 0.1, 0.0], [9.0, 5.0, 0.0], [1.0, 0.5, 0.2]])
    keys = np.diag([1.0, 1e-3, 1e3])
    third = np.sqrt(1 / 3 * 2 / 3 / 3)
    np.testing.assert_allclose(retrieval(queries, keys), (1 / 3, third))
    np.testing.assert_allclose(retrieval(queries, keys, 2), (2 / 3, third))
    assert retrieval(queries, keys, 3) == (1, 0)


def test_keys_that_are_all_alike_find_nothing():
    queries, keys = np.random.default_rng(0).standard_normal((300, 8)), np.full((300, 8), 0.1, np.float32)
    assert retrieval(queries, keys, 299).share == 0
    assert retrieval(queries, keys, 300).share == 1
