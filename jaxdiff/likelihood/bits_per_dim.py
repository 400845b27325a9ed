"""Bits per dimension of integer images, with what is known of their error."""

import dataclasses
import inspect
import math
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

