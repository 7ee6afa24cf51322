"""Parts that the tests of every package use: polling, proxies, checks and writers of journals."""
