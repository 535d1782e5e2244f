"""A Dask cluster whose workers keep results in compressed memory before they use the disk.

Needs `pip install 'zswap[dask]'`.
"""

import numpy as np
from distributed import Client, LocalCluster, wait

import zswap.dask


def main():
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            memory_limit="512MiB",
            dashboard_address=None,
            data=zswap.dask.SpillTier,
        ) as cluster,
        Client(cluster) as client,
    ):
        # 480 MB of results in a worker that may take 512 MiB
        arrays = client.map(lambda n: np.arange(2_000_000) + n, range(30))
        wait(arrays)
        print(client.submit(sum, client.map(lambda a: int(a[-1]), arrays)).result())


if __name__ == "__main__":
    main()
