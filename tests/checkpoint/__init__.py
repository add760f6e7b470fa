"""Do interrupted runs go on as if nothing had happened?"""
