"""The canary test: releases with and without one person, of factors, item-item statistics and deep updates."""
